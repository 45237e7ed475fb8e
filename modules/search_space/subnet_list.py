"""The list of subnets for the on-device tools."""
from __future__ import annotations

from pathlib import Path

from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.reference import Network, read_network
from modules.utils.csv_files import read_rows
from modules.utils.errors import UserError, shorten
from modules.utils.files import fault_of_file


def read_subnets(path: str | Path) -> list[tuple[SupernetConfig, SubnetChoiceConfig]]:
    """Space and subnet of each network of a list (`read_networks`)."""
    return [(network.space, network.subnet) for network in read_networks(path)]


def read_networks(path: str | Path) -> list[Network]:
    """The networks of a list. A line is `superspace,choice,subnet`, as spreadsheets write it too, or a network's
    reference (`read_network`). Empty lines and lines that begin with # are skipped.

    The resolution of a subnet is free; all else must belong to its space. UserError names the file and line.
    """
    path = Path(path)
    if fault := fault_of_file(path):
        raise UserError(f"list of subnets {str(path)!r} {fault}; it holds lines superspace,choice,subnet")
    networks = []
    for number, fields in read_rows(path, "list of subnets"):
        try:
            networks.append(_network(fields))
        except UserError as error:
            raise UserError(f"line {number} of {str(path)!r}: {error}") from None
    if not networks:
        raise UserError(f"list of subnets {str(path)!r} is empty; it holds lines superspace,choice,subnet")
    return networks


def _network(fields: list[str]) -> Network:
    while not fields[-1]:  # spreadsheets write as many fields in every line
        fields = fields[:-1]
    if len(fields) == 3:
        superspace, choice, subnet = fields
        return read_network(subnet, superspace, choice)
    text = ",".join(fields)  # a structure has commas
    try:
        return read_network(text)
    except UserError as error:
        raise UserError(f"{shorten(text)}: expected superspace,choice,subnet, or a network: {error}") from None
