"""torchvision's state dicts of EfficientNet-B0, MobileNetV2 and MobileNetV3-Large."""
from __future__ import annotations

from modules.modeling.net_spec import NetSpec
from modules.modeling.public_weights.form import Form, Pairs, blocks_of, conv_pairs, own_pairs, squeeze_pairs
from modules.modeling.spec import BlockSpec, ConvSpec, SESpec


def _efficientnet(spec: NetSpec) -> Pairs:
    """features.<stage>.<block>.block.<layer>"""
    numbers = {stage: number for number, (stage, _) in enumerate(spec.stages)}
    for stage, prefix, block in blocks_of(spec):
        if stage == "logits":
            yield from own_pairs(f"{prefix}.linear", "classifier.1")
        elif stage in ("first_conv", "final_expand"):
            yield from _alone(prefix, block, f"features.{numbers[stage]}")
        else:
            yield from _layers(prefix, block, f"features.{numbers[stage]}.{prefix.rpartition('.')[2]}.block")


def _mobilenet_v3(spec: NetSpec) -> Pairs:
    """features.<block>.block.<layer>"""
    for number, (stage, prefix, block) in enumerate(blocks_of(spec)):
        if stage == "logits":
            yield from own_pairs(f"{prefix}.linear", "classifier.3")
        elif stage in ("first_conv", "final_expand"):
            yield from _alone(prefix, block, f"features.{number}")
        elif stage != "feature_mix":
            yield from _layers(prefix, block, f"features.{number}.block")


def _mobilenet_v2(spec: NetSpec) -> Pairs:
    """features.<block>.conv.<layer>; the last convolution and its norm are layers of their own."""
    for number, (stage, prefix, block) in enumerate(blocks_of(spec)):
        if stage == "logits":
            yield from own_pairs(f"{prefix}.linear", "classifier.1")
        elif stage in ("first_conv", "final_expand"):
            yield from _alone(prefix, block, f"features.{number}")
        elif stage != "feature_mix":
            *inner, last = (layer for layer in block.main if layer.used)
            within = f"features.{number}.conv"
            for place, layer in enumerate(inner):
                yield from conv_pairs(prefix, layer, f"{within}.{place}.0", f"{within}.{place}.1")
            yield from conv_pairs(prefix, last, f"{within}.{len(inner)}", f"{within}.{len(inner) + 1}")


def _alone(prefix: str, block: BlockSpec, within: str) -> Pairs:
    yield from conv_pairs(prefix, block.main[0], f"{within}.0", f"{within}.1")


def _layers(prefix: str, block: BlockSpec, within: str) -> Pairs:
    for place, layer in enumerate(layer for layer in block.main if layer.used):
        at = f"{within}.{place}"
        if isinstance(layer, ConvSpec):
            yield from conv_pairs(prefix, layer, f"{at}.0", f"{at}.1")
        elif isinstance(layer, SESpec):
            yield from squeeze_pairs(prefix, layer, f"{at}.fc1", f"{at}.fc2")


FORMS = (
    Form("torchvision weights of EfficientNet", ("efficientnet_b0",), ("features.1.0.block.0.0.weight",),
         "classifier.1.bias", _efficientnet),
    Form("torchvision weights of MobileNetV2", ("mobilenet_v2",), ("features.1.conv.0.0.weight",),
         "classifier.1.bias", _mobilenet_v2),
    Form("torchvision weights of MobileNetV3", ("mobilenet_v3_large",), ("features.1.block.0.0.weight",),
         "classifier.3.bias", _mobilenet_v3, epsilon=1e-3, hidden=("stages.feature_mix.blocks.0.conv", "classifier.0")),
    Form("torchvision weights of ResNet", (), ("conv1.weight", "layer1.0.conv1.weight"), "fc.bias",
         lambda spec: iter(())),
)
