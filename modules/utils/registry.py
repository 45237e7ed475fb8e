"""Values by name: block types, superspaces, teachers, platforms, proxies."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from modules.utils.errors import check_choice

T = TypeVar("T")


class Registry(Generic[T]):
    """Values that register under a name, and further sources of values with names of their own.

    `what` names the kind of value in an error, such as "platform"; the flag that takes one may follow.
    """

    def __init__(self, what: str):
        self.what = what
        self._values: dict[str, T] = {}
        self._unlisted: set[str] = set()
        self._sources: list[tuple[Callable[[str], T | None], Callable[[], list[str]], str]] = []

    def add(self, name: str, value: T, listed: bool = True) -> T:
        """Register `value` and return it; ValueError for a name that is taken. `listed`: `names` gives it."""
        if name in self._values:
            raise ValueError(f"{self.what} {name!r} is registered already")
        self._values[name] = value
        if not listed:
            self._unlisted.add(name)
        return value

    def register(self, name: str) -> Callable[[T], T]:
        """The decorator that registers a class or function as `name`."""
        return lambda value: self.add(name, value)

    def add_source(self, find: Callable[[str], T | None], names: Callable[[], list[str]] = list,
                   form: str = "") -> None:
        """Look names up in `find` too, which gives None for an unknown one.

        `names` lists those that it knows; `form` is how errors write names that cannot be listed, as in
        "nn_meter:NAME".
        """
        self._sources.append((find, names, form))

    def names(self, pattern: str = "*") -> list[str]:
        """The listed names that match `pattern`, such as "efficientnet-*", in the order of registration."""
        known = [name for name in self._values if name not in self._unlisted]
        known += [name for _, names, _ in self._sources for name in names()]
        return [name for name in dict.fromkeys(known) if fnmatchcase(name, pattern)]

    def find(self, name: str) -> T | None:
        """The value called `name`, or None."""
        if name in self._values:
            return self._values[name]
        return next((value for find, _, _ in self._sources if (value := find(name)) is not None), None)

    def check(self, name: str) -> str:
        """`name`, if there is such a value; UserError with the known names otherwise."""
        if self.find(name) is None:
            forms = [form for _, _, form in self._sources if form]
            check_choice(name, dict.fromkeys([*self._values, *self.names(), *forms]), self.what)
        return name

    def __getitem__(self, name: str) -> T:
        value = self.find(name)
        return value if value is not None else self.find(self.check(name))

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)
