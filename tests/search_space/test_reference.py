"""One reference for a network: every form names the network it says, and travels by its own text."""
from dataclasses import replace

import pytest

from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.search_space.config import SupernetConfig
from modules.search_space.networks import find_network, get_available_networks
from modules.search_space.published import find_published
from modules.search_space.reference import read_network, reference_to
from modules.search_space.subnet_list import read_subnets
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import _superspaces, get_superspace, register_superspace
from modules.utils.errors import UserError

STRUCTURE = "SuperConvK3BNRELU(3,8,1,1)SuperResK1K5K1(8,16,2,8,2)SuperResIDWE2K3(16,24,2,16,1)"
SPACE = SupernetConfig.from_str("onnxw_tiny-053412-000000")
SUBNET = SubnetSpace(SPACE, (32,)).extreme(min)


def test_a_published_name_in_any_case():
    name, supernet, space, subnet = find_published("SEQnet@vnni-A0")
    for text in ("SEQnet@vnni-A0", "seqnet@VNNI-a0"):
        network = read_network(text)
        assert (network.name, network.supernet, network.space, network.subnet) == (name, supernet, space, subnet)
    assert read_network(f"{space}-{subnet}").name == name
    assert read_network(str(network)) == network
    member = read_network(f"{space}-{subnet}_r160".replace("_r160_r160", "_r160"))
    assert read_network(str(member)) == member
    assert member.supernet == f"{space}-align0"
    assert not network.fixed
    with pytest.raises(UserError, match="is a supernet"):
        read_network("spaceevo@vnni")


@pytest.mark.parametrize("name", get_available_networks())
def test_a_width_of_one_is_the_network_itself(name):
    assert read_network(f"{name}:1") == read_network(f"{name}:1.0") == read_network(name)


def test_fixed_networks_with_width_and_resolution():
    assert (read_network("resnet20").space, read_network("resnet20").subnet) == find_network("resnet20")
    network = read_network("mobilenet_v2:0.5_r160")
    assert str(network.space) == "mobilenet_v2_x0.5"
    assert network.resolution == 160
    assert network.fixed
    assert network.at(0) is network
    assert network.at(224) == read_network("mobilenet_v2:0.5")
    for name in get_available_networks():
        assert read_network(str(read_network(f"{name}:0.5_r96"))) == read_network(f"{name}:0.5_r96")
        assert read_network(str(read_network(name))) == read_network(name)
        assert reference_to(*find_network(name)) == name
    assert reference_to(SPACE, SUBNET) == f"{SPACE}-{SUBNET}"


def test_subnets_of_a_space_with_one_kind_of_block_have_names_of_their_own(monkeypatch):
    monkeypatch.setattr(_superspaces, "_values", dict(_superspaces._values))
    tiny = get_superspace("onnxw_tiny")
    one = register_superspace(replace(tiny, name="one_kind", candidates=tiny.candidates[:1]), listed=False)
    space = SubnetSpace(SupernetConfig.from_choice("one_kind", "000000"), one.resolutions)
    names = {reference_to(space.config, subnet): subnet for subnet in (space.extreme(min), space.extreme(max))}
    assert len(names) == 2
    for name, subnet in names.items():
        assert read_network(name).subnet == subnet
    with pytest.raises(UserError, match="unknown network 'one_kind'"):
        read_network("one_kind")


def test_structures_as_text_and_as_file(tmp_path):
    network = read_network(f"{STRUCTURE}_r32")
    assert network.space == SupernetConfig.from_str(STRUCTURE)  # checkpoints name their space in this way
    assert network.resolution == 32
    assert read_network(str(network)) == network
    (tmp_path / "best.txt").write_text(f"{STRUCTURE}\n")
    assert read_network(f"{tmp_path}/best.txt_r32") == network
    se = read_network(f"{tmp_path}/best.txt:se_r32")
    assert se == read_network(f"{STRUCTURE}:se_r32") == read_network(str(se))
    names = {network.name, se.name, network.supernet, se.supernet}
    assert len(names) == 4
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") for name in names)  # they name files
    assert network.supernet == f"{network.space.file_name}-align0"
    spec = resolve(network.space, network.subnet, 10)
    assert [block.args.kind for _, block in spec.blocks] == [
        "Conv", "ZenBottleneckProj", "ZenBottleneck", "ZenBottleneck", "ZenBottleneck", "ZenInvertedProj",
        "ZenInverted", "Pool", "Logits"]
    assert [block.args.cout for _, block in spec.blocks] == [8, 16, 16, 16, 16, 16, 24, 24, 10]
    # 1 x 1 kernel: 3 * 8 weights at 4 x 4, then a classifier of 8 * 10
    small = read_network("SuperConvK1BNRELU(3,8,2,1)_r8")
    assert count_net_flops_and_params(resolve(small.space, small.subnet, 10))[0] == (24 * 16 + 80) / 1e6


def test_lines_of_input_csv(tmp_path):
    listing = tmp_path / "input.csv"
    listing.write_text(f"# any network\n{SPACE.superspace},{SPACE.choice},{SUBNET}\n{SPACE}-{SUBNET}\n"
                       f"resnet20:0.5_r64\n{STRUCTURE}:se\nSEQnet@vnni-A0\n")
    expected = [(SPACE, SUBNET)] * 2 + [
        (n.space, n.subnet) for n in map(read_network, ("resnet20:0.5_r64", f"{STRUCTURE}:se", "SEQnet@vnni-A0"))]
    assert read_subnets(listing) == expected
    listing.write_text(f"resnet20\n{SPACE.superspace};{SPACE.choice};{SUBNET}\nresnet8;;\n")  # as spreadsheets save
    assert [str(space) for space, _ in read_subnets(listing)] == ["resnet20", str(SPACE), "resnet8"]
    listing.write_text("resnet20\nresnet20s\n")
    with pytest.raises(UserError, match=r"line 2 of .*resnet20s.*expected superspace,choice,subnet, or a network.*"
                                        "nearest: resnet20"):
        read_subnets(listing)


@pytest.mark.parametrize(("text", "message"), [
    ("mobilenet_v2_cifer", "unknown network 'mobilenet_v2_cifer', nearest: mobilenet_v2_cifar; allowed: SEQ"),
    ("", "unknown network ''"),
    ("resnet20:0", "width 0"), ("resnet20:abc", "width 'abc'"), ("resnet20:-1_r64", "width '-1'"),
    ("resnet20:", "width ''"),
    ("resnet20_r0", "resolution 0"), ("onnxw", "unknown network 'onnxw'"),
    (STRUCTURE.replace("(8,", "(9,", 1), "takes 9 channels"), ("SuperConvK3BNRELU(4,8,1,1)", "takes 4 channels"),
    (f"{SPACE}-{SUBNET}".replace("w8", "w9", 1), "width 9 in first_conv"), ("no/such/file.txt", "unknown"),
    ("Foo(1,2)", "allowed: SuperConv")])
def test_what_names_no_network_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        read_network(text)
