"""A setting: its default, meaning, unit, bounds and choices in one place.

The command line option, its `--help` text, the yaml key, and the line that refuses a bad value come from it. A setting
of one script: `option(parser, "--repeat", 32, "draws of weights", low=1)`. Settings in a dataclass: see
`modules.utils.settings.config`.
"""
from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from modules.utils.errors import UserError, check_choice, shorten
from modules.utils.settings.values import READERS, TYPE_NAMES, plain

MOST = 10**9  # of a whole number without an upper bound: no count, size or number of steps is larger
FIELD = "setting"  # key of the setting in the metadata of a dataclass field


@dataclass(frozen=True)
class Setting:
    """The meaning of a value and the allowed values. Numbers are finite, whatever the bounds.

    Args:
        default: MISSING if a value has to be given.
        meaning: the thing first; the meaning of special values after it.
        kind: int, float, str, bool or Path; the kind of the default if it is not given.
        many: several values: "*" any number of them, "+" one at least, a number exactly so many; "": one.
        low, high, above, below: least and largest value, and values just beyond the bounds. The default is allowed even
            outside them.
        unit: of a number, such as pixels or ms.
        choices: the allowed values.
        metavar: of `--help`; the unit or the kind.
        aliases: further names of the option.
        group: heading of the option in `--help`.
        name: of the option, if it differs from the dataclass's field.
        needs: settings of the same dataclass without which this one has no effect, parted by spaces: "teacher" (any
            value but its default), "schedule=cosine", "optimizer!=adam".
        shown: text of the default in `--help`, if the value itself would not tell a reader.
    """

    default: Any
    meaning: str
    _: dataclasses.KW_ONLY
    kind: type | None = None
    many: str | int = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    unit: str = ""
    choices: tuple = ()
    metavar: str = ""
    aliases: tuple[str, ...] = ()
    group: str = ""
    shown: str = ""
    name: str = ""
    needs: str = ""

    def __post_init__(self):
        if self.kind is None and self.default is not MISSING and self.default is not None:
            example = self.default[0] if isinstance(self.default, tuple | list) and self.default else self.default
            object.__setattr__(self, "kind", Path if isinstance(example, Path) else type(example))

    def field(self) -> Any:
        """The dataclass field of this setting; the annotation gives its kind. See `config.py`."""
        return dataclasses.field(default=self.default, metadata={FIELD: self})

    # -- values -----------------------------------------------------------------------------------------------------

    @property
    def allowed(self) -> str:
        """The allowed values in words, such as '1 or more', '32 to 8192 pixels', 'sgd, adam'; '' for any."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        if self.kind not in (int, float):
            return ""
        unit = f" {self.unit}" if self.unit else ""
        if self.low is not None and self.high is not None:
            return f"{self.low:.10g} to {self.high:.10g}{unit}"
        limits = (("at least {}", self.low), ("above {}", self.above), ("at most {}", self.high),
                  ("below {}", self.below))
        words = [text.format(f"{limit:.10g}") for text, limit in limits if limit is not None]
        if not words:
            return f"any number of {self.unit}" if unit else "any finite number"
        if len(words) == 1 and self.low is not None:
            return f"{self.low:.10g} or more{unit}"
        return ", ".join(words) + unit

    def read(self, value, where: str, source: str = ""):
        """The setting's value from the text of a command line or the value of a yaml file.

        Args:
            where: names the setting in an error, such as '--epochs'.
            source: a word before that, such as 'option' or a file's name.

        Raises:
            UserError: a value of another kind, or one that is not allowed.
        """
        place = f"{source} {where}".strip()
        if not self.many:
            return self._read(value, where, place)
        values = [] if value is None else value
        if isinstance(values, str) or not isinstance(values, Iterable) or isinstance(values, Mapping):
            raise UserError(f"value {shorten(value)} of {place}; expected a list of {self.type_name}")
        return tuple(self._read(one, where, place) for one in values)

    def check(self, value, where: str):
        """`value`, which has the setting's kind; UserError if it is not allowed."""
        if value is None and self.default is None:
            return value
        if self.many:
            for one in value:
                self._check(one, where, one)
        else:
            self._check(value, where, value)
        return value

    def _read(self, value, where: str, place: str):
        if value is None and self.default is None:
            return None
        try:
            read = READERS[self.kind](value)
        except (TypeError, ValueError, OverflowError, KeyError):
            raise UserError(f"value {shorten(value)} of {place}; expected {self.type_name}") from None
        self._check(read, where, value)
        return read

    def _check(self, value, where: str, given) -> None:
        if value == self.default:
            return
        if self.choices:
            check_choice(value, self.choices, f"value of {where}")
        elif self.kind in (int, float) and not self._within(value):
            raise UserError(f"{where} {plain(given)}; allowed: {self.allowed}")

    def _within(self, value) -> bool:
        most = MOST if self.kind is int and self.high is None else self.high
        return (math.isfinite(value) if isinstance(value, float) else True) and (
            (self.low is None or value >= self.low) and (most is None or value <= most)
            and (self.above is None or value > self.above) and (self.below is None or value < self.below))

    # -- the command line -------------------------------------------------------------------------------------------

    @property
    def type_name(self) -> str:
        """The kind of a value in a word, such as INT."""
        return TYPE_NAMES[self.kind]

    @property
    def help(self) -> str:
        """The text of `--help`: meaning, allowed values, default."""
        shown = self.shown or _shown(self.default)
        facts = "; ".join(filter(None, (self.allowed, f"default: {shown}" if shown else "")))
        return (f"{self.meaning} ({facts})" if facts else self.meaning).replace("%", "%%")

    def add_to(self, parser, name: str = "", *, given_only: bool = False, switch: bool = True,
               dest: str | None = None, **changes) -> argparse.Action:
        """Add the option `name` to a parser or a group of options.

        Args:
            given_only: an option that is not given is None, not its default.
            switch: a bool is set by naming the option; otherwise true or false follows it.
            dest: the attribute that gets the value; the option's name.
            changes: replace facts of the setting.
        """
        setting = dataclasses.replace(self, **changes) if changes else self
        name = name or f"--{self.name}"
        names, required = (name, *setting.aliases), setting.default is MISSING
        default = None if given_only or required else setting.default
        if setting.kind is bool and switch:
            return parser.add_argument(*names, action="store_true", default=default, dest=dest, help=setting.meaning)
        words = {"required": required, "dest": dest} if name.startswith("-") else {}
        return parser.add_argument(
            *names, **words, default=default, nargs=setting.many or None, type=OptionType(setting, name),
            metavar=setting.metavar or _metavar(setting), help=setting.help)


@dataclass(frozen=True, eq=False)
class OptionType:
    """The `type` of an option: reads a value of its setting, the attribute `setting`."""

    setting: Setting
    name: str

    def __call__(self, text: str):
        return self.setting._read(text, self.name, f"option {self.name}")


def option(parser, name: str, default, meaning: str, **facts) -> argparse.Action:
    """Add an option that belongs to one script, with the facts of `Setting`."""
    return Setting(default, meaning, **facts).add_to(parser, name)


def _shown(default) -> str:
    if default is MISSING or default is None or default == "" or default == () or default == []:
        return ""
    if isinstance(default, tuple | list):
        return " ".join(map(_shown, default))
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def _metavar(known: Setting) -> str | None:
    if known.kind in (int, float):
        return known.unit.split(" ")[0].upper() or known.type_name
    return known.type_name if known.kind is bool else None


# Settings of several scripts.
SEED = Setting(0, "seed of every random draw", low=0, high=2**32 - 1)
PIXELS = {"low": 8, "high": 8192, "unit": "pixels"}  # of an image side
WORKERS = Setting(0, "processes that load images; 0: the script itself", low=0, high=4096)
THREADS = Setting(1, "threads of the runtime", low=1, high=1024)
BATCH = {"low": 1, "unit": "images"}
TRAIN_BATCH = BATCH | {"low": 2}  # passes batch norm in training mode, which has no variance of one value
