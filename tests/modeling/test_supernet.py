"""The supernet and the networks cut out of it."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modules.modeling.network import QNetwork
from modules.modeling.ops.lsq_plus import QBase, set_quant_mode
from modules.modeling.quant_mode import QuantMode
from modules.modeling.supernet import Supernet
from modules.search_space import get_available_superspaces, get_superspace
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError

TINY = "onnxw_tiny-054321-000000"


def encodings():
    """Search spaces in which every candidate of every superspace occurs, the heavy ones in the narrow stages."""
    for name in get_available_superspaces():
        superspace = get_superspace(name)
        stages = len(superspace.searched)
        for last in range(len(superspace.candidates) - 1, -1, -stages):
            yield f"{name}-{''.join(str(max(last - i, 0)) for i in range(stages))}-{'0' * stages}"


def build(encoding=TINY, seed=0, classes=10):
    """A supernet in eval mode whose norms and statistics are far from their start values."""
    torch.manual_seed(seed)
    supernet = Supernet.build_from_str(encoding, classes, resolutions=(32, 48))
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return supernet.eval()


def choices(supernet, count=1):
    """The extremes and `count` samples."""
    rng = np.random.default_rng(0)
    space = supernet.subnets
    return [space.extreme(max), space.extreme(min), *(space.sample(rng) for _ in range(count))]


@pytest.mark.parametrize("encoding", list(encodings()))
def test_subnet_equals_supernet(encoding):
    """Bit for bit, in fp32 and in int8, with a batch of two and of one; the largest net starts the quantisers."""
    supernet = build(encoding)
    images = torch.randn(2, 3, 32, 32)
    outputs = set()
    for quantised in (False, True):
        if quantised:
            set_quant_mode(supernet)
        for choice in choices(supernet):
            supernet.set_active_subnet(choice)
            with torch.no_grad():
                expected = supernet(images)  # starts quantisers, which the subnet then takes over
                subnet = supernet.get_active_subnet()
                assert expected.shape == (2, 10)
                assert torch.equal(subnet(images), expected)
                assert torch.equal(subnet(images[:1]), supernet(images[:1]))
            assert subnet.resolution == choice.resolution
            outputs.add(tuple(expected[0].tolist()))
    assert len(outputs) == 6  # every choice in every mode computes something else


def test_the_published_calls():
    """`sample_active_subnet()` without a generator, `SubnetChoiceConfig.build_from_str`."""
    supernet, again = build(), build()
    drawn = [supernet.sample_active_subnet() for _ in range(5)]
    assert len(set(drawn)) > 1
    assert supernet.get_active_subnet_config() == drawn[-1]
    assert [again.sample_active_subnet() for _ in range(5)] == drawn
    assert [SubnetChoiceConfig.build_from_str(str(choice)) for choice in drawn] == drawn


def test_training_step_of_subnet_equals_supernet():
    """In training the same outputs, statistics and gradients; nothing outside the slices learns."""
    supernet = build().train()
    supernet.set_dropout_rate(0.0)
    supernet.sample_active_subnet(np.random.default_rng(1))
    subnet = supernet.get_active_subnet()
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    before = {name: p.detach().clone() for name, p in supernet.named_buffers()}
    losses = []
    for net in (supernet, subnet):
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == losses[1]
    learned = {name.replace(".blocks", ""): p.grad for name, p in supernet.named_parameters() if p.grad is not None}
    for name, p in subnet.named_parameters():
        if p.grad is None:
            assert name.endswith(("_scale", "_beta"))
            continue
        grad = learned.pop(name)
        start = [0 if axis < 2 else (a - b) // 2 for axis, (a, b) in enumerate(zip(grad.shape, p.shape, strict=True))]
        window = tuple(slice(i, i + n) for i, n in zip(start, p.shape, strict=True))
        torch.testing.assert_close(p.grad, grad[window])
        grad[window] = 0
        assert not grad.any(), name
    assert not learned
    statistics = dict(subnet.named_buffers())
    for name, now in supernet.named_buffers():
        own = statistics.get(name.replace(".blocks", ""))
        if name.endswith(("running_mean", "running_var")):
            used = 0 if own is None else len(own)
            assert torch.equal(now[used:], before[name][used:])
            assert own is None or torch.equal(now[:used], own)


def test_input_is_resized():
    """Bicubic to the active resolution, also where only the height differs."""
    supernet = build()
    choice = supernet.set_min_subnet()
    assert choice.resolution == 32
    subnet = supernet.get_active_subnet()
    for shape in ((40, 40), (40, 32), (32, 56)):
        images = torch.randn(2, 3, *shape)
        small = F.interpolate(images, size=(32, 32), mode="bicubic", align_corners=False)
        for net in (supernet, subnet):
            assert torch.equal(net(images), net(small))


def test_subnet_is_a_copy():
    """Training the subnet leaves the supernet's weights alone."""
    supernet = build()
    subnet = supernet.get_active_subnet()
    kept = supernet.stages["logits"].blocks[0].linear.weight.detach().clone()
    with torch.no_grad():
        for tensor in (*subnet.parameters(), *subnet.buffers()):
            tensor.zero_()
    assert torch.equal(supernet.stages["logits"].blocks[0].linear.weight, kept)
    assert isinstance(subnet, QNetwork)


@pytest.mark.parametrize("pick", [max, min])
def test_extremes(pick):
    """Largest and smallest net: every choice at its end."""
    supernet = Supernet.build_from_str(TINY, 10)
    choice = supernet.set_max_subnet() if pick is max else supernet.set_min_subnet()
    assert choice == supernet.get_active_subnet_config()
    assert choice.resolution == pick(32, 64)
    for stage, blocks in zip(supernet.subnets.stages, choice.stages, strict=True):
        assert len(blocks) == pick(stage.depths)
        assert {(b.kernel, b.width) for b in blocks} == {(pick(stage.candidate.kernels), pick(stage.widths))}
        assert {b.expand for b in blocks} == {
            None if stage.candidate.expands == (None,) else pick(stage.candidate.expands)}


def test_published_minimum_net():
    """SEQnet@pixel4-A0 is the smallest net of its supernet."""
    config = SupernetConfig.from_str("mobilew-122222-155400")
    assert str(SubnetSpace(config, config.space.resolutions).extreme(min)) == (
        "d1#1#2#2#2#2#2#1_k3#3#3#3#3#3#3#3#3#3#3#3#3_w16#16#32#32#64#64#96#96#144#144#192#192#216"
        "_e0#1.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0_r160")


def test_activating_methods():
    """Strings, samples, mutants and children become the active subnet; an illegal one changes nothing."""
    supernet, rng = build(), np.random.default_rng(0)
    a, b = supernet.sample_active_subnet(rng), supernet.sample_active_subnet(rng, align=True)
    for activated in (b, supernet.mutate(a, rng), supernet.crossover(a, b, rng), supernet.set_active_subnet(str(a))):
        assert isinstance(activated, SubnetChoiceConfig)
    assert supernet.get_active_subnet_config() == a
    assert supernet(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(UserError, match="resolution 31"):
        supernet.set_active_subnet(str(a).rpartition("_")[0] + "_r31")
    assert supernet.get_active_subnet_config() == a


def test_align_reaches_the_modules():
    """An aligned sample runs its first block's kernel size in every block of the stage."""
    supernet = build()
    supernet.sample_active_subnet(np.random.default_rng(5), align=True)
    for _, blocks in supernet.active_spec.stages:
        assert len({b.args.kernel for b in blocks}) == 1


def test_build_from_config():
    """The string and the value build the same network, at the superspace's resolutions unless told otherwise."""
    config = SupernetConfig.from_str(TINY)
    supernet = Supernet.build_from_config(config, num_classes=3)
    assert supernet.config == config
    assert supernet.subnets.resolutions == (32, 48, 64)
    assert supernet.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 3)


def test_dropout():
    """Only before the supernet's classifier, only in training, and not in extracted subnets."""
    supernet = build().train()
    subnet = supernet.get_active_subnet()
    assert subnet.training
    images, seen = torch.randn(8, 3, 32, 32), []
    features = supernet.stages["feature_mix"].register_forward_hook(lambda module, args, out: seen.append(out))
    inputs = supernet.stages["logits"].blocks[0].linear.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    supernet.set_dropout_rate(0.25)
    supernet(images)
    supernet(images)
    before, dropped, before_again, dropped_again = (t.flatten(1) for t in seen)
    assert torch.equal(before, before_again)
    assert not torch.equal(dropped, dropped_again)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], before[kept] / 0.75)
    assert (~kept & (before != 0)).sum() / (before != 0).sum() == pytest.approx(0.25, abs=0.05)
    seen.clear()
    supernet.eval()(images)
    assert torch.equal(seen[0].flatten(1), seen[1])
    features.remove()
    inputs.remove()
    assert torch.equal(subnet(images), subnet(images))
    assert torch.equal(supernet(images), supernet(images))


@pytest.mark.parametrize(("encoding", "count"), [
    ("mobilew-122222-155400", 32), ("onnxw-151122-023231", 30), ("mobile_v1-012000-000000", 0)])
def test_zero_last_gamma(encoding, count):
    """The published number of zeroed norms; blocks without forced shortcut keep theirs."""
    supernet = Supernet.build_from_str(encoding, 2)
    supernet.zero_last_gamma()
    norms = [m.weight for m in supernet.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sum(not weight.any() for weight in norms) == count
    assert sum(bool((weight == 1).all()) for weight in norms) == len(norms) - count


def test_zeroed_blocks_are_their_shortcut():
    """After `zero_last_gamma` a fresh residual block gives its (projected) input, then its last activation."""
    supernet = Supernet.build_from_str("onnxw_tiny-054321-000000", 2).eval()
    supernet.zero_last_gamma()
    checked = 0
    for stage in supernet.stages.values():
        for block in stage.blocks:
            if not block.spec.residual:
                continue
            x = torch.randn(1, block.spec.args.cin, 6, 6)
            down = block.spec.downsample
            expected = block.downsample(x, down) if down.used else x
            assert torch.equal(block(x), expected.relu() if block.spec.post_act else expected)
            checked += 1
    assert checked == 12


def test_quantiser_mode_travels():
    """Bits, kinds of range and start state go into the extracted subnet; layers never used stay unstarted."""
    supernet = set_quant_mode(build(), 4, 6, zero_point="float", narrow_range=False, start="lsq")
    supernet.set_min_subnet()
    supernet(torch.randn(2, 3, 32, 32))
    subnet = supernet.get_active_subnet()
    layers = [m for m in subnet.modules() if isinstance(m, QBase)]
    assert {(m.nbits_w, m.nbits_a, m.zero_point, m.narrow_range, m.start) for m in layers} == {
        (4, 6, "float", False, "lsq")}
    assert all(m.initialized.all() for m in layers)
    started = [bool(m.initialized.all()) for m in supernet.modules() if isinstance(m, QBase)]
    assert sum(started) == len(layers) < len(started)


def test_layers_unused_by_the_largest_net():
    """spaceevo_details.md C.1: the largest net of this space leaves 28 of 194 quantised layers unused."""
    supernet = set_quant_mode(Supernet.build_from_str("mobilew-122222-155400", 2, (32,)).eval())
    with torch.no_grad():
        supernet(torch.randn(1, 3, 32, 32))
    started = [bool(m.initialized.all()) for m in supernet.modules() if isinstance(m, QBase)]
    assert (len(started), len(started) - sum(started)) == (194, 28)


def test_tiny_superspace_is_small():
    """Two to three million parameters in the largest net with the block types of the published space."""
    supernet = Supernet.build_from_str("onnxw_tiny-151122-000000", 10)
    assert 2e6 < sum(p.numel() for p in supernet.get_active_subnet().parameters()) < 3e6


def test_a_subnet_lies_on_the_device_of_its_supernet(monkeypatch):
    supernet = Supernet.build_from_str(TINY, 10, (32,))
    QuantMode(placement="engine").apply(supernet)
    monkeypatch.setattr("modules.modeling.supernet.copy_slice", lambda source, target: None)  # reads no values
    subnet = supernet.to("meta").get_active_subnet()
    kept = {**dict(subnet.named_parameters()), **dict(subnet.named_buffers())}
    assert any("tensors" in name for name in kept)
    assert {name for name, tensor in kept.items() if tensor.device.type != "meta"} == set()
