"""The published interface to the ZenNets.

    import ZenNet

    net = ZenNet.get_ZenNet("zennet_imagenet1k_flops400M_SE_res224", pretrained=True)
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.zero_shot.published.zennet import get_ZenNet, zennet_model_zoo

__all__ = ["get_ZenNet", "zennet_model_zoo"]
