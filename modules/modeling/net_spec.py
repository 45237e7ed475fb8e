"""Structure from choices: the blocks of a subnet, and the largest blocks of a supernet. Every consumer starts here.

No torch code.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product

from modules.modeling.spec import BlockArgs, BlockSpec, build_block
from modules.search_space.config import BlockChoice, SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import HEAD_STAGES, INPUT_CHANNELS, Candidate, StageTable
from modules.utils.errors import UserError


@dataclass(frozen=True)
class NetSpec:
    """A network: name and blocks of each stage, and the square input resolution in pixels. `superspace`: the name of
    the one that it was taken from, if it is known."""

    stages: tuple[tuple[str, tuple[BlockSpec, ...]], ...]
    resolution: int
    superspace: str = field(default="", compare=False, repr=False)

    @property
    def blocks(self) -> tuple[tuple[str, BlockSpec], ...]:
        """All blocks in order, each with its name `<stage>.<index>`."""
        return tuple((f"{stage}.{i}", b) for stage, blocks in self.stages for i, b in enumerate(blocks))

    @property
    def num_classes(self) -> int:
        """Width of the last block."""
        return self.stages[-1][1][-1].args.cout


def _block(candidate: Candidate, cin: int, choice: BlockChoice, stride: int) -> BlockSpec:
    return build_block(BlockArgs(candidate.block, cin, choice.width, choice.kernel, choice.expand, stride,
                                 candidate.act))


def stage_blocks(candidate: Candidate, table: StageTable, cin: int,
                 choices: tuple[BlockChoice, ...]) -> tuple[BlockSpec, ...]:
    """The blocks of one stage: only the first has the stage's stride and input width `cin`."""
    blocks = []
    for i, choice in enumerate(choices):
        blocks.append(_block(candidate, cin, choice, table.stride if i == 0 else 1))
        cin = choice.width
    return tuple(blocks)


def _head_choice(table: StageTable, candidate: Candidate, num_classes: int) -> tuple[BlockChoice, ...]:
    width = num_classes if table.name == "logits" else table.widths[-1]
    return (BlockChoice(candidate.kernels[-1], width),)


def resolve(config: SupernetConfig, choice: SubnetChoiceConfig, num_classes: int = 1000) -> NetSpec:
    """The structure of subnet `choice` of the space `config`. `choice` must be legal (`SubnetSpace.check`)."""
    space, cin, stages = config.space, INPUT_CHANNELS, []
    options = {s.name: (s, blocks) for s, blocks in zip(_subnet_space(config).stages, choice.stages, strict=True)}
    for table in space.stages:
        if table.name in HEAD_STAGES:
            candidate = space.fixed[table.name]
            choices = _head_choice(table, candidate, num_classes)
        else:
            stage, choices = options[table.name]
            candidate = stage.candidate
        stages.append((table.name, stage_blocks(candidate, table, cin, choices)))
        cin = choices[-1].width
    return NetSpec(tuple(stages), choice.resolution, config.superspace)


@lru_cache(maxsize=1000)
def _subnet_space(config: SupernetConfig) -> SubnetSpace:
    return SubnetSpace(config, config.space.resolutions)


def largest_stage(config: SupernetConfig, name: str, num_classes: int = 1000) -> tuple[BlockSpec, ...]:
    """The largest blocks of stage `name`: every other configuration is a slice of them.

    The first block takes the largest width of the *whole* width list of the stage before, as published.
    """
    space, table = config.space, config.space.stage(name)
    previous = space.previous(name)
    cin = max(previous.widths) if previous else INPUT_CHANNELS
    if name in HEAD_STAGES:
        candidate = space.fixed[name]
        return stage_blocks(candidate, table, cin, _head_choice(table, candidate, num_classes))
    stage = next(s for s in _subnet_space(config).stages if s.name == name)
    blocks = stage_blocks(stage.candidate, table, cin, stage.extreme(max))
    inputs = (previous.widths if previous else (INPUT_CHANNELS,), *(stage.widths for _ in blocks[1:]))
    return tuple(_marked(block, cins, stage.widths) for block, cins in zip(blocks, inputs, strict=True))


def _marked(block: BlockSpec, cins: Iterable[int], couts: Iterable[int]) -> BlockSpec:
    """`block`, with `sometimes_residual` if it has a shortcut at other widths alone."""
    if not block.residual and any(build_block(replace(block.args, cin=cin, cout=cout)).residual
                                  for cin, cout in product(cins, couts)):
        return replace(block, sometimes_residual=True)
    return block


def stage_choice(config: SupernetConfig, name: str, encoding: str) -> tuple[Candidate, tuple[BlockChoice, ...]]:
    """Parse `k#w#e_k#w#e...`, a block table's description of one stage; its candidate and blocks.

    UserError for a malformed block, or a value that the stage does not have.
    """
    stage = next(s for s in _subnet_space(config).stages if s.name == name)
    blocks = []
    for part in encoding.split("_"):
        values = part.split("#")
        try:
            kernel, width, expand = values
            blocks.append(BlockChoice(int(kernel), int(width), None if expand == "None" else float(expand)))
        except ValueError:
            raise UserError(f"block {part!r} of {encoding!r}; expected kernel#width#expand, as in 3#48#None") from None
    allowed = (stage.candidate.kernels, stage.widths, stage.candidate.expands)
    for block in blocks:
        for value, options in zip((block.kernel, block.width, block.expand), allowed, strict=True):
            if value not in options:
                raise UserError(f"value {value} in {encoding!r} of {name} of {config}; allowed: "
                                f"{', '.join(map(str, options))}")
    return stage.candidate, tuple(blocks)
