"""State dicts of EfficientNet-B0 and -Lite, converted from TensorFlow (`_conv_stem`, `_blocks.0`)."""
from __future__ import annotations

from modules.modeling.net_spec import NetSpec
from modules.modeling.public_weights.form import Form, Pairs, blocks_of, conv_pairs, own_pairs, squeeze_pairs
from modules.modeling.spec import ConvSpec, SESpec
from modules.search_space.networks.efficientnets import LITE, LITE_MEAN, LITE_STD

_INNER = {"point_conv1": ("_expand_conv", "_bn0"), "depth_conv": ("_depthwise_conv", "_bn1"),
          "point_conv2": ("_project_conv", "_bn2")}
_ALONE = {"first_conv": ("_conv_stem", "_bn0"), "final_expand": ("_conv_head", "_bn1")}


def _ported(spec: NetSpec) -> Pairs:
    """_blocks.<block>.<layer>"""
    for number, (stage, prefix, block) in enumerate(blocks_of(spec), -1):  # after first_conv comes block 0
        if stage == "logits":
            yield from own_pairs(f"{prefix}.linear", "_fc")
        for layer in block.main:
            if isinstance(layer, ConvSpec) and layer.used:
                names = _ALONE.get(stage) or (f"_blocks.{number}.{name}" for name in _INNER[layer.name])
                yield from conv_pairs(prefix, layer, *names)
            elif isinstance(layer, SESpec):
                yield from squeeze_pairs(prefix, layer, f"_blocks.{number}._se_reduce", f"_blocks.{number}._se_expand")


FORMS = (
    Form("tensorflow weights of EfficientNet", ("efficientnet_b0_tf",),
         ("_conv_stem.weight", "_blocks.0._se_reduce.weight"), "_fc.bias", _ported, epsilon=1e-3),
    Form("tensorflow weights of EfficientNet-Lite", tuple(LITE),
         ("_conv_stem.weight", "!_blocks.0._se_reduce.weight"), "_fc.bias", _ported, epsilon=1e-3, mean=LITE_MEAN,
         std=LITE_STD),
)
