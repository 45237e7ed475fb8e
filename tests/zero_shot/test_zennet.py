"""Published weight files of ZenNets, against networks written here as the published program builds its modules."""

import pytest
import torch
from torch import nn

from modules.modeling.restore import load_supernet
from modules.modeling.zen_weights import to_published
from modules.search_space.networks.structure import Structure, round_to
from modules.search_space.networks.zennets import STRUCTURES
from modules.search_space.reference import read_network
from modules.training.calibration import calibrate_bn
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.zero_shot.published.zennet import get_ZenNet, zennet_model_zoo


class Part(nn.Module):
    def __init__(self, netblock):
        super().__init__()
        self.netblock = netblock

    def forward(self, x):
        return self.netblock(x)


class Gate(Part):
    def forward(self, x):
        return x * self.netblock(x)


class Chain(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.module_list = nn.ModuleList(parts)

    def forward(self, x):
        for part in self.module_list:
            x = part(x)
        return x


class Residual(Chain):
    def __init__(self, parts, cin, cout, stride, project):
        super().__init__(parts)
        if project:
            self.proj = nn.Sequential(nn.Conv2d(cin, cout, 1, stride), nn.BatchNorm2d(cout))

    def forward(self, x):
        return super().forward(x) + (self.proj(x) if hasattr(self, "proj") else x)


def conv(cin, cout, kernel=1, stride=1, groups=1):
    return [Part(nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)),
            Part(nn.BatchNorm2d(cout))]


def gate(c):
    middle = max(1, round(c / 4))
    return [Gate(nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(),
        nn.Conv2d(middle, c, 1, bias=False), nn.BatchNorm2d(c), nn.Sigmoid()))]


def super_block(block, se):
    kernel, parts, cin = block.family.kernel, [], block.cin
    for i in range(block.sub_layers):
        if block.family.unit == "Conv":
            parts += [*conv(cin, block.cout, kernel, block.stride if i == 0 else 1), nn.ReLU()]
            cin = block.cout
            continue
        inverted, outs = block.family.unit == "ZenInverted", [block.cout]
        if block.family.unit != "ZenKK":
            outs = [block.bottleneck if inverted else block.cout, block.cout]
        for j, out in enumerate(outs):
            stride, hidden = block.stride if i == j == 0 else 1, block.bottleneck
            if inverted:
                hidden = round_to(out * block.family.expand)
            squeeze = gate(hidden) if se else []
            if block.family.unit == "ZenKK":
                inner = [*conv(cin, hidden, kernel, stride), nn.ReLU(), *squeeze, *conv(hidden, out, kernel)]
            else:
                inner = [*conv(cin, hidden), nn.ReLU(),
                         *conv(hidden, hidden, kernel, stride, hidden if inverted else 1), nn.ReLU(), *squeeze,
                         *conv(hidden, out)]
            parts += [Residual(inner, cin, out, stride, i == j == 0 or cin != out), nn.ReLU()]
            cin = out
    return Chain(parts)


class Published(Chain):
    """A network with the published names of all its tensors, and random values in them."""

    def __init__(self, structure: Structure, classes: int):
        super().__init__([super_block(block, structure.use_se) for block in structure.blocks])
        self.fc_linear = Part(nn.Linear(structure.blocks[-1].cout, classes))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-3
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
                nn.init.normal_(module.running_mean, 0, 0.2)
                nn.init.uniform_(module.running_var, 0.5, 2)

    def forward(self, x):
        return self.fc_linear(super().forward(x).mean((2, 3)))


@pytest.mark.parametrize("name", ["zennet_imagenet1k_flops400M_SE_res224", "zennet_cifar100_model_size05M_res32",
                                  "zennet_imagenet1k_latency01ms_res224"])
def test_a_published_weight_file_gives_the_published_network(name, tmp_path, shared_json):
    torch.manual_seed(0)
    facts = zennet_model_zoo[name]
    theirs = Published(STRUCTURES[name], facts.num_classes).eval()
    path = tmp_path / "student_best-params_rank0.pth"
    torch.save({"epoch": 3, "state_dict": theirs.state_dict(), "top1_acc": 70.0}, path)
    ours = get_ZenNet(name, pretrained=path).eval()
    images = torch.randn(2, 3, facts.resolution, facts.resolution)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-3, atol=1e-3)
    counted = shared_json("facts", "zennet_plainnet.json")[name.replace("_SE", "").replace("cifar100", "cifar")]
    assert facts.resolution == counted["resolution"]
    extra = (facts.num_classes - counted["num_classes"]) * (theirs.fc_linear.netblock.in_features + 1)
    assert sum(p.numel() for p in theirs.parameters()) - extra == counted["se" if "_SE" in name else "no_se"][
        "registered_params"]
    back = to_published(ours, STRUCTURES[name])
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(tensor, back[key]) for key, tensor in theirs.state_dict().items())


def test_every_tool_takes_a_published_weight_file(tmp_path, monkeypatch):
    """`load_supernet`, through which all of them go; True reads the folder of the published program."""
    torch.manual_seed(0)
    name = "zennet_cifar10_model_size05M_res32"
    theirs = Published(STRUCTURES[name], 10).eval()
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".cache/pytorch/checkpoints/zennet_pretrained" / name / "best-params_rank0.pth"
    monkeypatch.syspath_prepend(str(REPOSITORY / "zen_nas"))
    import ZenNet

    with pytest.raises(UserError, match=f"no weights of {name}"):
        ZenNet.get_ZenNet(name, pretrained=True)
    path.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), path)
    net = ZenNet.get_ZenNet(name, pretrained=True).eval()
    network = read_network(name)
    model, record = load_supernet(path, network.space, False)
    assert len(record.classes) == 10
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(images)
        for found in (net, model, model.get_active_subnet()):
            torch.testing.assert_close(found(images), expected, rtol=1e-3, atol=1e-3)
    other = read_network("resnet20")
    for refused, quant, words in ((network, True, "is fp32"), (other, False, "of a Zen-NAS network")):
        with pytest.raises(UserError, match=words):
            load_supernet(path, refused.space, quant)
    with pytest.raises(UserError, match=r"it lacks module_list\."):
        ZenNet.get_ZenNet("zennet_cifar10_model_size2M_res32", pretrained=path)
    with pytest.raises(UserError, match="zennet_imagenet1k_latency12ms_res224"):
        ZenNet.get_ZenNet("zennet_13", pretrained=path)


def test_weights_without_a_record_hold_for_any_resolution(tmp_path):
    """A bare structure, whose own resolution is 224; the images are loaded at that of the network, not resized."""
    structure = "SuperConvK3BNRELU(3,8,1,1)SuperResIDWE1K3(8,8,2,8,1)SuperConvK1BNRELU(8,16,1,1)"
    torch.manual_seed(0)
    theirs = Published(Structure.parse(structure), 10).eval()
    path = tmp_path / "best-params_rank0.pth"
    torch.save(theirs.state_dict(), path)
    evaluator = SubnetEvaluator.open(path, read_network(structure).space, quant_mode=False, dataset="digits",
                                     limit_batches=1, calibration_batches=2)
    for resolution in (32, 24, 32):
        network = read_network(f"{structure}_r{resolution}")
        net = evaluator.subnet(evaluator.choice_of(network))
        images = next(iter(evaluator.validation_batches()))[0]
        assert images.shape[1:] == (3, resolution, resolution)
        assert all(batch.shape[-1] == resolution for batch in evaluator.calibration)
        calibrated = calibrate_bn(theirs, evaluator.calibration).eval()
        with torch.no_grad():
            torch.testing.assert_close(net(images), calibrated(images), rtol=1e-3, atol=1e-3)
    trained, _ = load_supernet(path, network.space, False)
    assert trained.set_active_subnet(read_network(f"{structure}_r40").subnet).resolution == 40
    with pytest.raises(UserError, match="width 24"):
        trained.set_active_subnet(str(network.subnet).replace("w8#8#8#16", "w8#8#24#16"))
