"""Fixed networks by name. Each is a superspace with one member: tools for subnets take it."""
from modules.search_space.networks import efficientnets, mobilenets, residual, slim, zennets  # noqa: F401  they register
from modules.search_space.networks.rows import find_network, get_available_networks, network_space
from modules.search_space.networks.structure import Structure, structure_space
from modules.search_space.networks.zennets import STRUCTURES
from modules.search_space.superspace import add_superspaces

__all__ = ["find_network", "find_structure", "get_available_networks"]

add_superspaces(network_space, ", ".join(f"{name}[:width]" for name in get_available_networks()))
add_superspaces(structure_space, "a Zen structure")


def find_structure(superspace: str) -> Structure | None:
    """The Zen structure of a fixed network's superspace, named as a ZenNet or by the structure; None for any other."""
    return Structure.parse(superspace) if "(" in superspace else STRUCTURES.get(superspace)
