"""The configurations of one stage of a superspace in block distillation. No torch code."""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from modules.modeling.spec import output_size
from modules.search_space.config import BlockChoice, SupernetConfig
from modules.search_space.subnet_space import StageOptions, SubnetSpace, pick
from modules.search_space.superspace import StageTable, Superspace, get_superspace
from modules.utils.errors import UserError, check_choice


@dataclass(frozen=True)
class StageChoice:
    """A configuration of a student: the output width of its input projection, and the blocks of its stage."""

    cin: int
    blocks: tuple[BlockChoice, ...]


@dataclass(frozen=True)
class StudentSpace:
    """The configurations of a student: `options` of its stage, `input_widths` of its input projection."""

    table: StageTable
    options: StageOptions
    input_widths: tuple[int, ...]

    def extreme(self, end) -> StageChoice:
        """The configuration with `end` (min or max) applied to every list of options."""
        return StageChoice(end(self.input_widths), self.options.extreme(end))

    def sample(self, rng) -> StageChoice:
        """A uniform draw: depth, blocks, then the input width."""
        blocks = self.options.sample(rng)
        return StageChoice(pick(rng, self.input_widths), blocks)

    def window(self, choice: int) -> StudentSpace:
        """The configurations whose widths lie in one width window; the input width stays free."""
        return dataclasses.replace(
            self, options=dataclasses.replace(self.options, widths=self.table.window_widths(choice)))


def stage_config(superspace: str, stage_name: str, block_choice: int) -> SupernetConfig:
    """The space in which `stage_name` has candidate `block_choice` and its full width list."""
    searched = [s.name for s in get_superspace(superspace).searched]
    return SupernetConfig(superspace, tuple(block_choice if s == stage_name else 0 for s in searched),
                          (-1,) * len(searched))


def student_space(superspace: str, stage_name: str, block_choice: int) -> StudentSpace:
    """The configurations of the student of `stage_name` with candidate `block_choice`, on its full width list."""
    space = get_superspace(superspace)
    options = SubnetSpace(stage_config(superspace, stage_name, block_choice), (0,)).stages
    return StudentSpace(space.stage(stage_name), next(s for s in options if s.name == stage_name),
                        space.previous(stage_name).widths)


def stage_list(superspace: str, names: list[str] | None) -> dict[str, list[int]]:
    """Block choices per searched stage, in order; `names` such as `stage1_0` select some of them, None takes all.

    Raises:
        UserError: a name that is not `<stage>_<block>` of this superspace.
    """
    space = get_superspace(superspace)
    known = {f"{stage.name}_{block}": (stage.name, block)
             for stage in space.searched for block in range(len(space.candidates))}
    for name in names or ():
        check_choice(name, known, f"stage and block of {superspace} (--stage_list)")
    stages: dict[str, list[int]] = {}
    for name, (stage, block) in known.items():
        if not names or name in names:
            stages.setdefault(stage, []).append(block)
    return stages


def check_output_sizes(superspace: Superspace, stages, resolutions, loss_fn: str, option: str = "--hw_list",
                       instead: str = "--loss_fn mse") -> None:
    """UserError for a resolution at which a stage's output is a single pixel: `nsr` would divide by its variance, 0.
    `option` gave the resolutions; `instead` names another remedy."""
    for stage in superspace.stages:
        resolutions = [output_size(r, stage.stride) for r in resolutions]
        if stage.name in stages and loss_fn == "nsr" and min(resolutions) < 2:
            raise UserError(f"{option}: the output of {stage.name} would be one pixel, and the loss nsr divides by "
                            f"a variance over pixels; allowed: larger resolutions, or {instead}")
