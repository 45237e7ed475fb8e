"""The published supernets and subnets by name."""
from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError, check_choice
from modules.utils.settings import read_yaml

RESULTS = Path(__file__).resolve().parents[2] / "data" / "search_results.yaml"


@cache
def _results() -> dict:
    return read_yaml(RESULTS, "list of published networks")


def published_names() -> list[str]:
    """All names, supernets first."""
    return [*_results()["supernets"], *_results()["subnets"]]


def published_subnets() -> list[str]:
    """The names of the subnets alone."""
    return list(_results()["subnets"])


def published_supernets(space: SupernetConfig) -> list[str]:
    """The names of the supernet of `space`; none if it is not published."""
    return [name for name, listed in _results()["supernets"].items() if listed == str(space)]


def is_published_supernet(name: str) -> bool:
    """Whether `name`, in any case, is a published supernet's."""
    return name.lower() in map(str.lower, _results()["supernets"])


def find_published(name: str) -> tuple[str, str, SupernetConfig, SubnetChoiceConfig | None]:
    """Look up a supernet or subnet, in any case.

    Returns:
        Its listed name, its supernet's name, the space, and the subnet (None for a supernet).
    """
    results, by_case = _results(), {n.lower(): n for n in published_names()}
    listed = by_case.get(name.lower())
    check_choice(listed or name, published_names(), "model name")
    subnet = results["subnets"].get(listed)
    supernet = subnet["supernet"] if subnet else listed
    choice = SubnetChoiceConfig.from_str(subnet["subnet"]) if subnet else None
    return listed, supernet, SupernetConfig.from_str(results["supernets"][supernet]), choice


def find_subnet(name: str, superspace: str = "", choice: str = ""
                ) -> tuple[str, str, SupernetConfig, SubnetChoiceConfig]:
    """Look up a published subnet, or a subnet given by its encoding and its space (`superspace`, `choice`).

    Returns:
        A name for files, the name of its supernet's folder, the space, and the subnet.

    Raises:
        UserError: an unknown name, a supernet's name, half a space, a subnet of another space.
    """
    if not superspace and not choice:
        listed, supernet, space, subnet = find_published(name)
        if subnet is None:
            raise UserError(f"{listed} is a supernet; allowed: {', '.join(_results()['subnets'])}, or an encoding with "
                            "--superspace and --supernet_choice")
        return listed, supernet, space, subnet
    space, subnet = SupernetConfig.from_choice(superspace, choice), SubnetChoiceConfig.from_str(name)
    SubnetSpace(space, (subnet.resolution,)).check(subnet)
    return published_name(space, subnet) or subnet_id(space, subnet), f"{space.file_name}-align0", space, subnet


def subnet_id(space: SupernetConfig, choice: SubnetChoiceConfig) -> str:
    """`<superspace>_<choice>_<first 6 hex digits of the subnet string's sha256>`: names the files of a subnet."""
    superspace = space.superspace if space.blocks else space.file_name
    return f"{superspace}_{space.choice}_{hashlib.sha256(str(choice).encode()).hexdigest()[:6]}"


def published_name(space: SupernetConfig, choice: SubnetChoiceConfig) -> str | None:
    """The published name of a subnet; None if it has none."""
    results = _results()
    for name, entry in results["subnets"].items():
        if entry["subnet"] == str(choice) and results["supernets"][entry["supernet"]] == str(space):
            return name
    return None
