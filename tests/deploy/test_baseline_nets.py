"""MobileNetV2 and V3 as superspaces against torchvision's."""
import pytest
import torch

from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.modeling.network import QNetwork
from modules.search_space import get_available_superspaces, get_superspace
from modules.search_space.baselines import MOBILENET_V2_ONLY, MOBILENET_V3_LARGE
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.torchvision_compat import import_torchvision


def shapes(net: torch.nn.Module) -> list:
    return [(tuple(m.weight.shape), m.stride, m.groups) for m in net.modules() if isinstance(m, torch.nn.Conv2d)]


@pytest.mark.parametrize(("name", "encoding", "reference"), [
    ("mobilenet_v2", MOBILENET_V2_ONLY, "mobilenet_v2"), ("mobilenet_v3", MOBILENET_V3_LARGE, "mobilenet_v3_large")])
def test_convolutions_are_those_of_torchvision(name, encoding, reference):
    config = SupernetConfig.from_choice(name, encoding[0])
    choice = SubnetChoiceConfig.from_str(f"{encoding[1]}_r224")
    SubnetSpace(config, (224,)).check(choice)
    spec = resolve(config, choice)
    ours, theirs = QNetwork(spec), getattr(import_torchvision().models, reference)()
    expected = shapes(theirs)
    if name == "mobilenet_v3":  # its first linear layer is a convolution here
        expected.append(((1280, 960, 1, 1), (1, 1), 1))
    assert shapes(ours) == expected
    macs, _ = count_net_flops_and_params(spec)
    assert macs == pytest.approx({"mobilenet_v2": 300.8, "mobilenet_v3": 216.6}[name], rel=5e-3)  # published: 300, 219
    weights = sum(p.numel() for p in theirs.parameters())
    assert sum(p.numel() for key, p in ours.named_parameters() if not key.endswith(
        ("_scale", "_beta"))) == weights + (1280 if name == "mobilenet_v3" else 0)


def test_they_are_known_but_not_listed():
    assert get_superspace("mobilenet_v2").name == "mobilenet_v2"
    assert not {"mobilenet_v2", "mobilenet_v3"} & set(get_available_superspaces())
    config = SupernetConfig.from_choice("mobilenet_v2", MOBILENET_V2_ONLY[0])
    space = SubnetSpace(config, (224,))
    assert space.extreme(min) == space.extreme(max)
