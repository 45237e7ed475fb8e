"""The published ZenNets as networks with their published weights."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from modules.modeling.net_spec import resolve
from modules.modeling.network import QNetwork
from modules.modeling.zen_weights import NORM_EPS, from_published, is_published, published_classes
from modules.search_space.networks import find_structure
from modules.search_space.networks.zennets import STRUCTURES
from modules.search_space.reference import read_network
from modules.utils.checkpoint import load_checkpoint, load_weights
from modules.utils.errors import UserError, check_choice

CACHE = Path("~/.cache/pytorch/checkpoints/zennet_pretrained")  # the published program's folder of weight files
_CROP = {"imagenet1k_latency12ms": 380, "imagenet1k": 320, "cifar": 32}


@dataclass(frozen=True)
class Published:
    """Facts of a published ZenNet: classes, resolution, and the crop of images (pixels) before their bilinear resize to
    that resolution."""

    num_classes: int
    resolution: int
    crop_image_size: int


def _facts(name: str) -> Published:
    crop = next(crop for part, crop in _CROP.items() if part in name)
    classes = 1000 if "imagenet1k" in name else 100 if "cifar100" in name else 10
    return Published(classes, int(name.rpartition("_res")[2]), crop)


zennet_model_zoo = {name: _facts(name) for name in STRUCTURES}


def get_ZenNet(model_name: str, pretrained: bool | str | Path = False, num_classes: int = 0) -> QNetwork:
    """The ZenNet `model_name`, such as zennet_imagenet1k_flops400M_SE_res224: a module from images (N, 3, 224, 224) to
    logits (N, 1000).

    Args:
        pretrained: a published weight file; True: `<name>/...params_rank0.pth` in the published program's folder;
            False: random weights.
        num_classes: of random weights; 0: as published.

    Raises:
        UserError: an unknown name; no weight file, or one that is damaged or of another network.
    """
    facts = zennet_model_zoo[check_choice(model_name, zennet_model_zoo, "ZenNet")]
    path = None
    if pretrained:
        path = cached_weights(model_name) if pretrained is True else Path(pretrained)
        checkpoint = load_checkpoint(path, "ZenNet weights")
        weights = checkpoint.get("state_dict", checkpoint)
        if not is_published(weights):
            raise UserError(f"ZenNet weights {str(path)!r} have no fc_linear.netblock.weight; expected a "
                            "published file")
        num_classes = published_classes(weights)
    network = read_network(model_name)
    net = QNetwork(resolve(network.space, network.subnet, num_classes or facts.num_classes))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = NORM_EPS
    if path:
        load_weights(net, {"state_dict": from_published(weights, find_structure(model_name), net, path)}, path)
    return net


def cached_weights(name: str) -> Path:
    """The published weight file of a ZenNet in the folder of the published program; UserError if there is none."""
    folder = CACHE.expanduser()
    found = [path for part in (name, f"iccv2021_{name}") for path in sorted((folder / part).glob("*params_rank0.pth"))]
    if not found:
        raise UserError(f"no weights of {name} in {str(folder / name)!r}; put the published file there "
                        "(student_best-params_rank0.pth, of CIFAR best-params_rank0.pth), or name it")
    return found[0]
