"""Dataclasses of settings: the command line and the yaml file that a configuration comes from, and its checks.

    @dataclass(frozen=True)
    class Config:
        momentum: float = setting(0.9, "momentum of SGD", low=0, below=1)

        def __post_init__(self):
            check_settings(self)

    add_arguments(parser, Config)
    config = from_arguments(Config, parser.parse_args())
"""
from __future__ import annotations

import argparse
import dataclasses
import re
import types
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from modules.utils.errors import UserError, nearest, shorten
from modules.utils.notes import say
from modules.utils.settings.option import FIELD, Setting
from modules.utils.settings.values import plain


def setting(default, meaning: str, **facts) -> Any:
    """A dataclass field with the facts of `Setting`."""
    return Setting(default, meaning, **facts).field()


@cache
def settings_of(cls: type) -> dict[str, Setting]:
    """The settings of a dataclass by name; the annotations give kind and number."""
    hints = get_type_hints(cls)
    found = {f.name: f.metadata[FIELD] for f in dataclasses.fields(cls) if FIELD in f.metadata}
    return {name: dataclasses.replace(known, name=known.name or name, **_kind(hints[name], known))
            for name, known in found.items()}


def check_settings(config) -> None:
    """UserError if a value of the dataclass `config` is not allowed; to be called as it is made."""
    for name, known in settings_of(type(config)).items():
        known.check(getattr(config, name), f"--{known.name}")


def add_arguments(parser: argparse.ArgumentParser, cls: type, *, leave_out: Iterable[str] = (), switches: bool = True,
                  shown: Mapping[str, str] | None = None, **defaults) -> None:
    """One option per setting of `cls`, under their groups; `defaults` replaces some defaults. See `Setting.add_to`.

    Args:
        leave_out: names of settings without an option.
        switches: a bool is set by naming its option; otherwise true or false follows it.
        shown: for some names, the text of the default in `--help`.
    """
    groups = {"": parser}
    for name, known in settings_of(cls).items():
        if name in leave_out:
            continue
        if known.group not in groups:
            groups[known.group] = parser.add_argument_group(known.group)
        changes = {"default": defaults[name]} if name in defaults else {}
        if shown and name in shown:
            changes["shown"] = shown[name]
        known.add_to(groups[known.group], given_only=True, switch=switches, **changes)


def from_arguments(cls: type, args: argparse.Namespace, **defaults):
    """The `cls` of the options given; `defaults` replaces the settings' own defaults for options that are not given. A
    note tells which of those given have no effect."""
    given = given_arguments(cls, args)
    config = cls(**defaults | given)
    for line in idle_settings(config, given):
        say(line)
    return config


def idle_settings(config, given: Iterable[str]) -> list[str]:
    """A line for each of the settings `given` that has no effect in the dataclass `config`, with the reason."""
    settings = settings_of(type(config))
    reasons = {name: next(filter(None, (_unmet(need, config, settings) for need in settings[name].needs.split())), "")
               for name in given}
    return [f"--{settings[name].name} has no effect {reason}" for name, reason in reasons.items() if reason]


def _unmet(need: str, config, settings: Mapping[str, Setting]) -> str:
    """The reason why `need`, as of `Setting.needs`, does not hold in `config`; "" if it does."""
    name, other, value = re.fullmatch(r"(\w+)(!?=)?(.*)", need).groups()
    found, option = getattr(config, name), f"--{settings[name].name}"
    if not other:
        return f"without {option}" if found == settings[name].default else ""
    shown = str(found).lower() if isinstance(found, bool) else str(found)
    return "" if (shown == value) == (other == "=") else f"with {option} {plain(shown)}"


def given_arguments(cls: type, args: argparse.Namespace) -> dict:
    """The settings of `cls` that were given on the command line, by name."""
    given = {name: getattr(args, known.name, None) for name, known in settings_of(cls).items()}
    return {name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items() if value is not None}


def read_settings(cls: type, content: Mapping, source: str) -> dict:
    """The settings of `cls` in the content of a yaml file, checked.

    Raises:
        UserError: an unknown key, with the nearest name; a value of another kind or one that is not allowed.
    """
    known = settings_of(cls)
    for name in content:
        if name not in known:
            near = nearest(str(name), known)
            raise UserError(f"unknown setting in {source}: {shorten(name)}{f', nearest: {near}' if near else ''}; "
                            f"allowed: {', '.join(known)}")
    return {name: known[name].read(value, f"{source}: {name}") for name, value in content.items()}


def _kind(hint, known: Setting) -> dict:
    """Kind and number of values from an annotation such as `tuple[int, ...]` or `float | None`."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) is tuple:
        return {"kind": get_args(hint)[0], "many": known.many or "*"}
    return {"kind": hint}
