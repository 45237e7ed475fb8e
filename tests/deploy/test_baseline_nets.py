"""MobileNetV2 and V3 as superspaces against torchvision's."""
import numpy as np
import pytest
import torch

from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.modeling.network import QNetwork
from modules.search_space import get_available_superspaces, get_superspace
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.networks import find_network, get_available_networks
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError
from modules.utils.torchvision_compat import import_torchvision

# Encodings without the resolution: supernet choice, subnet.
MOBILENET_V2 = ("000000", "d1#1#2#3#4#3#3#1_k3#3#3#3#3#3#3#3#3#3#3#3#3#3#3#3#3#3_"
                "w32#16#24#24#32#32#32#64#64#64#64#96#96#96#160#160#160#320_e0#1#6#6#6#6#6#6#6#6#6#6#6#6#6#6#6#6")
MOBILENET_V3_LARGE = ("01234", "d1#1#2#3#4#2#3_k3#3#3#3#5#5#5#3#3#3#3#3#3#5#5#5_"
                      "w16#16#24#24#40#40#40#80#80#80#80#112#112#160#160#160_"
                      "e0#1#4#3#3#3#3#6#2.5#2.3#2.3#6#6#6#6#6")


def shapes(net: torch.nn.Module) -> list:
    return [(tuple(m.weight.shape), m.stride, m.groups) for m in net.modules() if isinstance(m, torch.nn.Conv2d)]


@pytest.mark.parametrize(("name", "encoding", "reference"), [
    ("mobilenet_v2", MOBILENET_V2, "mobilenet_v2"), ("mobilenet_v3", MOBILENET_V3_LARGE, "mobilenet_v3_large")])
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


def test_efficientnet_b0_is_that_of_torchvision():
    ours, theirs = QNetwork(resolve(*find_network("efficientnet_b0"))), import_torchvision().models.efficientnet_b0()
    assert shapes(ours) == shapes(theirs)
    assert sum(p.numel() for key, p in ours.named_parameters() if not key.endswith(("_scale", "_beta"))) == sum(
        p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(("name", "parameters", "macs"), [  # published: 3.77 M, 0.19 G; 9.72 M, 0.83-0.85 G
    ("mobilenet_v4_conv_s", 3.77, 186), ("mobilenet_v4_conv_m", 9.72, 828), ("mobilenet_v2", 3.505, 300.8),
    ("efficientnet_lite0", 4.652, 385), ("efficientnet_lite1", 5.417, 601), ("efficientnet_lite2", 6.092, 860),
    ("resnet8", 0.078, 12.5), ("resnet10_slim", 0.3412, 13.81), ("mbconv9_slim", 0.2613, 15.006),
    ("resnet20", 0.2725, 40.8)])
def test_counts_of_networks_by_name(name, parameters, macs):
    spec = resolve(*find_network(name), 10 if "resnet" in name or "slim" in name else 1000)
    counted = count_net_flops_and_params(spec)
    assert counted == (pytest.approx(macs, rel=2e-3), pytest.approx(parameters, rel=2e-3))


@pytest.mark.parametrize("name", get_available_networks())
def test_every_network_takes_a_width_and_travels_by_its_name(name):
    config, choice = find_network(f"{name}:0.5")
    assert find_network(config.superspace) == (config, choice)
    assert SupernetConfig.from_str(str(config)) == config
    assert ":" not in str(config)  # it names files
    whole, half = (count_net_flops_and_params(resolve(*find_network(n), 10))[0] for n in (name, f"{name}:0.5"))
    assert 0.2 < half / whole < 0.45
    strides = [b.args.stride for _, b in resolve(config, choice, 10).blocks]
    assert np.prod(strides) == (4 if name.startswith("resnet") and "slim" not in name else
                                8 if choice.resolution == 32 else 32)


def test_a_width_that_is_none():
    with pytest.raises(UserError, match="width 0 of 'resnet20:0'; allowed: above 0, at most 8"):
        find_network("resnet20:0")
    with pytest.raises(UserError, match=r"unknown superspace 'resnet21'; allowed: .*resnet20"):
        find_network("resnet21")


def test_they_are_known_but_not_listed():
    assert get_superspace("mobilenet_v2").name == "mobilenet_v2"
    assert not {"mobilenet_v2", "mobilenet_v3"} & set(get_available_superspaces())
    config = SupernetConfig.from_choice("mobilenet_v2", MOBILENET_V2[0])
    space = SubnetSpace(config, (224,))
    assert space.extreme(min) == space.extreme(max)
