"""The published supernets and subnets by name."""
from __future__ import annotations

from functools import cache
from pathlib import Path

from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.utils.errors import check_choice

RESULTS = Path(__file__).resolve().parents[2] / "data" / "search_results.yaml"


@cache
def _results() -> dict:
    import yaml

    return yaml.safe_load(RESULTS.read_text())


def published_names() -> list[str]:
    """All names, supernets first."""
    return [*_results()["supernets"], *_results()["subnets"]]


def find_published(name: str) -> tuple[str, str, SupernetConfig, SubnetChoiceConfig | None]:
    """Look up a supernet or subnet, in any case.

    Returns:
        Its name as listed, its supernet's name, the space, and the subnet (None for a supernet).
    """
    results, by_case = _results(), {n.lower(): n for n in published_names()}
    listed = by_case.get(name.lower())
    check_choice(listed or name, published_names(), "model name")
    subnet = results["subnets"].get(listed)
    supernet = subnet["supernet"] if subnet else listed
    choice = SubnetChoiceConfig.from_str(subnet["subnet"]) if subnet else None
    return listed, supernet, SupernetConfig.from_str(results["supernets"][supernet]), choice


def published_name(space: SupernetConfig, choice: SubnetChoiceConfig) -> str | None:
    """The name under which a subnet is published, if it is."""
    results = _results()
    for name, entry in results["subnets"].items():
        if entry["subnet"] == str(choice) and results["supernets"][entry["supernet"]] == str(space):
            return name
    return None
