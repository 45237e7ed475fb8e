"""One reference for a network, the value of `--network`. Every tool for single networks takes it.

A reference is one of

- a published subnet's name, in any case: SEQnet@vnni-A0
- a fixed network's, with an optional width: resnet20, mobilenet_v2:0.5, zennet_imagenet1k_flops400M_SE_res224
- a space and a subnet of it: onnxw-151122-023231-d1#1#2..._r160, as in the tables of the benchmarks
- a Zen structure, or the file that holds one: "SuperConvK3BNRELU(3,8,1,1)...", results/zen_nas/best_structure.txt;
  `:se` after it adds squeeze-and-excitation

and `_r<pixels>` after it sets the resolution: resnet20:0.5_r64.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, replace

from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.networks import find_network, get_available_networks
from modules.search_space.networks.structure import SE, read_structure
from modules.search_space.published import find_subnet, published_name, published_names, published_subnets, subnet_id
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import Superspace, get_superspace, has_superspace
from modules.utils.errors import UserError, nearest, shorten
from modules.utils.files import is_file
from modules.utils.settings import Setting

NETWORK = Setting("", "network: a published name (SEQnet@vnni-A0), a fixed network (resnet20, mobilenet_v2:0.5), "
                  "<superspace>-<choice>-<subnet>, a Zen structure or its file; _r<pixels> sets the resolution")
_MEMBER = re.compile(r"(?P<space>[^()]+?)-(?P<subnet>d\d[\d#]*_k.*)")
_RESOLUTION = re.compile(r"(?P<name>.+)_r(?P<pixels>\d{1,5})")


@dataclass(frozen=True)
class Network:
    """One network: its space and its subnet. `name` names its files, `supernet` its checkpoint's folder."""

    space: SupernetConfig
    subnet: SubnetChoiceConfig
    name: str
    supernet: str

    @property
    def fixed(self) -> bool:
        """Whether the space has no other network."""
        return _is_fixed(self.space.space)

    @property
    def resolution(self) -> int:
        """Resolution of the input in pixels."""
        return self.subnet.resolution

    @property
    def own_resolution(self) -> bool:
        """Whether the resolution is that of the space."""
        return self.resolution == max(self.space.space.resolutions)

    def at(self, resolution: int) -> Network:
        """The same network at another resolution, or itself for 0."""
        if resolution in (0, self.resolution):
            return self
        return _network(self.space, replace(self.subnet, resolution=resolution), self.supernet)

    def __str__(self) -> str:
        """A reference for `read_network` to this network."""
        if self.name in published_subnets() and self.supernet in published_names():
            return self.name
        if not self.fixed:
            return f"{self.space}-{self.subnet}"
        return self.space.superspace + ("" if self.own_resolution else f"_r{self.resolution}")


def _is_fixed(space: Superspace) -> bool:
    blocks = (*space.fixed.values(), *space.candidates)
    return (len(space.candidates) <= 1 and all(len(s.widths) == len(s.depths) == 1 for s in space.elastic)
            and all(len(block.kernels) == len(block.expands) == 1 for block in blocks))


def _network(space: SupernetConfig, subnet: SubnetChoiceConfig, supernet: str = "") -> Network:
    SubnetSpace(space, (subnet.resolution,)).check(subnet)
    return Network(space, subnet, published_name(space, subnet) or subnet_id(space, subnet),
                   supernet or f"{space.file_name}-align0")


def read_network(reference: str, superspace: str = "", choice: str = "", resolution: int = 0) -> Network:
    """The network of `reference`.

    Args:
        superspace, choice: the space of a subnet given by its encoding alone (`--superspace`,
            `--supernet_choice`).
        resolution: in pixels, of a fixed network whose reference has none; 0: the network's own.

    Raises:
        UserError: none of the forms above, an unknown name, a supernet's name, a subnet of another space.
    """
    text = reference.strip()
    if superspace or choice:
        name, supernet, space, subnet = find_subnet(text, superspace, choice)
        return Network(space, subnet, name, supernet)
    if match := _MEMBER.fullmatch(text):
        return _network(SupernetConfig.from_str(match["space"]), SubnetChoiceConfig.from_str(match["subnet"]))
    for name, pixels in _readings(text):
        if network := _named(name):
            if pixels == 0:
                raise UserError(f"resolution 0 of {shorten(text)}; expected pixels, at least 1")
            return network.at(pixels or (resolution if network.fixed else 0))
    known = [*published_subnets(), *get_available_networks()]
    near = nearest(text, known)
    raise UserError(f"unknown network {shorten(text)}" + (f", nearest: {near}" if near else "")
                    + f"; allowed: {', '.join(known)}, a width after a colon, <superspace>-<choice>-<subnet>, a Zen "
                    "structure or its file")


def reference_to(space: SupernetConfig, subnet: SubnetChoiceConfig) -> str:
    """A reference for `read_network` to a network: the name alone where the space has no other network."""
    return str(_network(space, subnet))


def _readings(text: str) -> list[tuple[str, int | None]]:
    """The ways to read `text` as a name and pixels (None: not given). A file's name may end like a resolution; a
    structure does not."""
    match = _RESOLUTION.fullmatch(text)
    whole = [] if match and "(" in text else [(text, None)]
    return [*whole, *([(match["name"], int(match["pixels"]))] if match else [])]


def _named(text: str) -> Network | None:
    """The network of a name, structure or file without resolution; None if it is none of these."""
    if text.lower() in map(str.lower, published_names()):  # a supernet's too: the message says that it is one
        name, supernet, space, subnet = find_subnet(text)
        return Network(space, subnet, name, supernet)
    if "(" not in text and not has_superspace(text):
        path, se = text.removesuffix(SE), text.endswith(SE)
        if not is_file(path):
            return None
        structure = read_structure(path)
        text = str(replace(structure, use_se=structure.use_se or se))
    return _network(*find_network(text)) if _is_fixed(get_superspace(text)) else None
