"""The list of subnets that the on-device tools work on."""
from __future__ import annotations

from pathlib import Path

from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError


def read_subnets(path: str | Path) -> list[tuple[SupernetConfig, SubnetChoiceConfig]]:
    """Lines `superspace,choice,subnet`; empty lines and lines that begin with # are skipped.

    The resolution of a subnet is free; everything else must belong to its space. UserError names the file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"list of subnets {str(path)!r} does not exist; it holds lines superspace,choice,subnet")
    subnets = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            superspace, choice, subnet = line.split(",")
        except ValueError:
            raise UserError(f"line {number} of {str(path)!r} is {line!r}; expected superspace,choice,subnet") from None
        try:
            space, subnet = SupernetConfig.from_choice(superspace, choice), SubnetChoiceConfig.from_str(subnet)
            SubnetSpace(space, (subnet.resolution,)).check(subnet)
        except UserError as error:
            raise UserError(f"line {number} of {str(path)!r}: {error}") from None
        subnets.append((space, subnet))
    if not subnets:
        raise UserError(f"list of subnets {str(path)!r} is empty; it holds lines superspace,choice,subnet")
    return subnets
