"""A form of public weights: the tensors of a file, and their names here."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockSpec, ConvSpec, SESpec
from modules.search_space.preprocessing import IMAGENET_MEAN, IMAGENET_STD

Pairs = Iterator[tuple[str, str]]  # our name of a tensor, and the file's
_NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Form:
    """How a file names the tensors of a network.

    Args:
        what: words for messages.
        networks: names of the networks here that it fits, at any width.
        marks: tensors that tell the form; those after "!" are absent.
        classifier: the classifier's bias.
        epsilon: the number that batch norm adds to the variance.
        pairs: the names of all tensors of a network.
        hidden: a layer with a bias that is a pointwise convolution with batch norm here: our prefix, the file's name.
        mean, std: of the images, per channel, of values in 0..1.
    """

    what: str
    networks: tuple[str, ...]
    marks: tuple[str, ...]
    classifier: str
    pairs: Callable[[NetSpec], Pairs]
    epsilon: float = 1e-5
    hidden: tuple[str, str] | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def fits(self, weights: dict) -> bool:
        """Whether a file's tensors have this form."""
        return self.classifier in weights and all(
            (mark.removeprefix("!") in weights) != mark.startswith("!") for mark in self.marks)


def blocks_of(spec: NetSpec) -> Iterator[tuple[str, str, BlockSpec]]:
    """(stage, prefix of the block's tensors, block) in order."""
    for stage, blocks in spec.stages:
        for i, block in enumerate(blocks):
            yield stage, f"stages.{stage}.blocks.{i}", block


def conv_pairs(prefix: str, layer: ConvSpec, conv: str, norm: str) -> Pairs:
    """The tensors of a convolution and its batch norm, which the file calls `conv` and `norm`."""
    yield f"{prefix}.{layer.name}.{'dwconv' if layer.depthwise else 'conv'}.weight", f"{conv}.weight"
    for leaf in _NORM:
        yield f"{prefix}.{layer.name}.norm.{leaf}", f"{norm}.{leaf}"


def squeeze_pairs(prefix: str, layer: SESpec, reduce: str, expand: str) -> Pairs:
    """The tensors of squeeze-and-excitation."""
    yield from own_pairs(f"{prefix}.{layer.name}.fc.reduce", reduce)
    yield from own_pairs(f"{prefix}.{layer.name}.fc.expand", expand)


def own_pairs(ours: str, theirs: str) -> Pairs:
    """Weight and bias of a layer."""
    for leaf in ("weight", "bias"):
        yield f"{ours}.{leaf}", f"{theirs}.{leaf}"
