"""torchvision's state dicts of EfficientNet-B0, MobileNetV2 and MobileNetV3-Large."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from modules.modeling.net_spec import NetSpec
from modules.modeling.public_weights.form import Form, Pairs, blocks_of, conv_pairs, own_pairs, squeeze_pairs
from modules.modeling.spec import BlockSpec, ConvSpec, SESpec


def _by_stage(spec: NetSpec) -> Iterable[tuple[int, str]]:
    """For each block the number in `features`, and where its layers are below: features.<stage>.<block>.block"""
    return ((number, f".{i}.block") for number, (_, blocks) in enumerate(spec.stages) for i in range(len(blocks)))


def _by_block(below: str, spec: NetSpec) -> Iterable[tuple[int, str]]:
    """The same where `features` has the blocks of all stages in a row: features.<block>.<below>"""
    return ((number, f".{below}") for number, _ in enumerate(blocks_of(spec)))


def _layers(prefix: str, block: BlockSpec, within: str) -> Pairs:
    """Each layer in a module of its own."""
    for place, layer in enumerate(layer for layer in block.main if layer.used):
        at = f"{within}.{place}"
        if isinstance(layer, ConvSpec):
            yield from conv_pairs(prefix, layer, f"{at}.0", f"{at}.1")
        elif isinstance(layer, SESpec):
            yield from squeeze_pairs(prefix, layer, f"{at}.fc1", f"{at}.fc2")


def _layers_v2(prefix: str, block: BlockSpec, within: str) -> Pairs:
    """The last convolution and its norm are layers of their own."""
    *inner, last = (layer for layer in block.main if layer.used)
    for place, layer in enumerate(inner):
        yield from conv_pairs(prefix, layer, f"{within}.{place}.0", f"{within}.{place}.1")
    yield from conv_pairs(prefix, last, f"{within}.{len(inner)}", f"{within}.{len(inner) + 1}")


def _names(spec: NetSpec, places: Callable[[NetSpec], Iterable[tuple[int, str]]], layers: Callable[..., Pairs],
           classifier: str) -> Pairs:
    """The names of all tensors, with those within blocks by `layers` (our prefix, block, the file's prefix)."""
    for (stage, prefix, block), (number, below) in zip(blocks_of(spec), places(spec), strict=True):
        if stage == "logits":
            yield from own_pairs(f"{prefix}.linear", classifier)
        elif stage in ("first_conv", "final_expand"):
            yield from conv_pairs(prefix, block.main[0], f"features.{number}.0", f"features.{number}.1")
        elif stage != "feature_mix":  # a pool, or the form's `hidden` layer
            yield from layers(prefix, block, f"features.{number}{below}")


FORMS = (
    Form("torchvision weights of EfficientNet", ("efficientnet_b0",), ("features.1.0.block.0.0.weight",),
         "classifier.1.bias",
         partial(_names, places=_by_stage, layers=_layers, classifier="classifier.1")),
    Form("torchvision weights of MobileNetV2", ("mobilenet_v2",), ("features.1.conv.0.0.weight",),
         "classifier.1.bias",
         partial(_names, places=partial(_by_block, "conv"), layers=_layers_v2, classifier="classifier.1")),
    Form("torchvision weights of MobileNetV3", ("mobilenet_v3_large",), ("features.1.block.0.0.weight",),
         "classifier.3.bias",
         partial(_names, places=partial(_by_block, "block"), layers=_layers, classifier="classifier.3"),
         epsilon=1e-3, hidden=("stages.feature_mix.blocks.0.conv", "classifier.0")),
    Form("torchvision weights of ResNet", (), ("conv1.weight", "layer1.0.conv1.weight"), "fc.bias",
         lambda spec: iter(())),
)
