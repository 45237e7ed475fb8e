"""Superspaces: tables of stages and candidate blocks, and their registry. No torch code."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from modules.utils.errors import UserError, check_choice
from modules.utils.registry import Registry


@dataclass(frozen=True)
class StageTable:
    """One stage of a macro architecture.

    `widths` is the full list of output channels, `depths` the allowed numbers of blocks, `stride` the stride of the
    first block, `window` the number of consecutive widths in one width window (None: all).
    """

    name: str
    widths: tuple[int, ...]
    depths: tuple[int, ...] = (1,)
    stride: int = 1
    window: int | None = None

    @property
    def num_windows(self) -> int:
        """Number of width windows of the stage."""
        return len(self.widths) - (self.window or len(self.widths)) + 1

    def window_widths(self, choice: int) -> tuple[int, ...]:
        """Widths of window `choice`; -1 is the whole list, for block distillation."""
        if choice == -1 or self.window is None:
            return self.widths
        return self.widths[choice : choice + self.window]


@dataclass(frozen=True)
class Candidate:
    """A block type with the allowed kernel sizes and expand ratios; `(None,)` if it has no ratio."""

    block: str
    kernels: tuple[int, ...] = (3,)
    expands: tuple[float | None, ...] = (None,)
    act: str | None = "relu"


@dataclass(frozen=True)
class Superspace:
    """A macro architecture and the candidate blocks of its searched stages.

    `stages` are in order of execution. `fixed` gives the block of every stage that is not searched; all other stages
    choose one of `candidates`. `resolutions` are those of supernet training, `block_kd_resolutions` those of the block
    tables.
    """

    name: str
    stages: tuple[StageTable, ...]
    fixed: dict[str, Candidate] = field(hash=False)
    candidates: tuple[Candidate, ...]
    resolutions: tuple[int, ...] = (160, 176, 192, 208, 224)
    block_kd_resolutions: tuple[int, ...] = (160, 192, 224)
    default_platform: str = "onnxruntime_int8"

    @property
    def searched(self) -> tuple[StageTable, ...]:
        """The stages whose block type and width window are searched (stage1 ... stage6)."""
        return tuple(s for s in self.stages if s.name not in self.fixed)

    @property
    def elastic(self) -> tuple[StageTable, ...]:
        """The stages in a subnet encoding: all before final_expand."""
        return tuple(s for s in self.stages if s.name not in HEAD_STAGES)

    def block_choices(self, names: Iterable[str] = ()) -> tuple[int, ...]:
        """Indices of the candidates whose block is in `names`, such as ResNetBasic; of all for none.

        Raises:
            UserError: a name that is no block type of this superspace.
        """
        names = tuple(names)
        for name in names:
            check_choice(name, dict.fromkeys(c.block for c in self.candidates), f"block type of {self.name}")
        return tuple(i for i, c in enumerate(self.candidates) if not names or c.block in names)

    def stage(self, name: str) -> StageTable:
        """The stage called `name`; UserError with the known names otherwise."""
        check_choice(name, [s.name for s in self.stages], f"stage of {self.name}")
        return next(s for s in self.stages if s.name == name)

    def previous(self, name: str) -> StageTable | None:
        """The stage before `name`, None for the first."""
        index = self.stages.index(self.stage(name))
        return self.stages[index - 1] if index else None


HEAD_STAGES = ("final_expand", "feature_mix", "logits")
INPUT_CHANNELS = 3

_superspaces: Registry[Superspace] = Registry("superspace")

def register_superspace(superspace: Superspace, listed: bool = True) -> Superspace:
    """Make a superspace known by its name; `listed`: among those to search."""
    return _superspaces.add(superspace.name, superspace, listed)


def add_superspaces(find: Callable[[str], Superspace | None], form: str) -> None:
    """Look names up in `find` too, which gives None for an unknown one. Errors write its names as `form`."""
    _superspaces.add_source(find, form=form)


def get_available_superspaces(pattern: str = "*") -> list[str]:
    """Names of the superspaces to search that match `pattern`, in the order of registration."""
    return _superspaces.names(pattern)


def has_superspace(name: str) -> bool:
    """Whether there is a superspace or fixed network called `name`."""
    return name in _superspaces


def get_superspace(name: str) -> Superspace:
    """The superspace called `name`; UserError with the known names otherwise."""
    return _superspaces[name]


def get_searched_superspace(name: str) -> Superspace:
    """The superspace called `name`; UserError if it is a fixed network, of which no stage is searched."""
    superspace = get_superspace(name)
    if not superspace.searched:
        raise UserError(f"{name} is a fixed network; allowed: a superspace to search, "
                        f"{', '.join(get_available_superspaces())}")
    return superspace
