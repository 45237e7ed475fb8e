"""Subnets for the tests of deployment: every block type, norms as training leaves them, started quantisers."""
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from modules.datasets.build import load_data
from modules.datasets.loading import eval_batches
from modules.datasets.transforms import eval_transform
from modules.deploy.check.agreement import compare
from modules.deploy.graph.graph import Graph, Quantizer, WeightNode
from modules.deploy.graph.lower import lower
from modules.modeling.net_spec import NetSpec, resolve
from modules.modeling.network import QNetwork
from modules.modeling.ops.lsq_plus import QBase, set_quant_mode
from modules.modeling.quant_mode import QuantMode
from modules.modeling.spec import BlockArgs, build_block
from modules.runtime.session import Session
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import get_available_superspaces, get_superspace


def lively(net: QNetwork, seed: int = 0) -> QNetwork:
    """`net` with norms as training leaves them: all kinds of gamma, negative and zero ones too, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            def uniform(low, high, n=module.num_features):
                return torch.empty(n).uniform_(low, high, generator=generator)

            module.weight.data = uniform(1, 3) * uniform(-1, 1).sign()
            module.weight.data[::7] = 0
            module.bias.data = uniform(-0.3, 0.3)
            module.running_mean.data = uniform(-0.1, 0.1)
            module.running_var.data = uniform(0.5, 2)
    return net.eval()


def quantized(net: QNetwork, images: torch.Tensor, shift: float = 0.0) -> QNetwork:
    """`net` in int8 with started quantisers; `shift` moves every offset down by that many steps."""
    set_quant_mode(net)
    with torch.no_grad():
        net(images)
        for module in net.modules():
            if isinstance(module, QBase):
                module.activation_beta -= shift * module.activation_scale
    return net


def subnet(encoding: str, resolution: int = 32, pick=min) -> QNetwork:
    """The smallest (or, with `pick=max`, largest) subnet of a space, for 10 classes."""
    config = SupernetConfig.from_str(encoding)
    torch.manual_seed(0)
    return lively(QNetwork(resolve(config, SubnetSpace(config, (resolution,)).extreme(pick), 10)))


def every_block_type():
    """Parameters: for each candidate of each superspace a space that consists of it."""
    for name in get_available_superspaces():
        superspace = get_superspace(name)
        for i, candidate in enumerate(superspace.candidates):
            yield pytest.param(f"{name}-{str(i) * len(superspace.searched)}", id=f"{name}-{candidate.block}")


def conv_node(name, source, cin, cout, kernel, rng, stride=1):
    """A convolution of random integers, with random scales and a random quantiser of its input."""
    codes = rng.integers(-127, 128, (cout, cin, kernel, kernel)).astype(np.int8)
    scales = rng.uniform(1e-4, 3e-3, cout).astype(np.float32)
    quantizer = Quantizer(np.float32(rng.uniform(0.01, 0.03)), int(rng.integers(0, 200)))
    return WeightNode("conv", (source,), name, weight=codes * scales[:, None, None, None],
                      bias=rng.normal(0, 0.5, cout).astype(np.float32), stride=stride, codes=codes, scales=scales,
                      quantizer=quantizer)


def integer_conv(codes: np.ndarray, node: WeightNode) -> np.ndarray:
    """Accumulator of an integer convolution in int64, by loops over the kernel; zero padding is the zero point."""
    pad, stride = node.codes.shape[-1] // 2, node.stride
    x = np.pad(codes.astype(np.int64) - node.quantizer.zero_point, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height = -(-codes.shape[2] // stride)
    out = np.zeros((len(codes), len(node.codes), height, height), np.int64)
    for i in range(node.codes.shape[2]):
        for j in range(node.codes.shape[3]):
            patch = x[:, :, i:i + stride * height:stride, j:j + stride * height:stride][:, :, :height, :height]
            out += np.einsum("nchw,oc->nohw", patch, node.codes[:, :, i, j].astype(np.int64))
    scale = np.float32(node.quantizer.scale) * node.scales
    bias = np.round(node.bias.astype(np.float64) / scale.astype(np.float64)).astype(np.int64)
    return out + bias[:, None, None]


@cache
def digits_network(mode: QuantMode) -> tuple[QNetwork, list, list]:
    """A small network trained in int8 on the digits, its calibration images, and the validation batches."""
    data = load_data("digits")
    train, valid = (list(eval_batches(source, indices, eval_transform(24, data.info), batch_size=48))
                    for source, indices in ((data.train, data.train_indices), (data.valid, data.valid_indices)))
    args = [BlockArgs("Conv", 3, 16, 3, None, 2, "relu"), BlockArgs("MobileNetV3Res", 16, 24, 3, 3, 2, "hswish"),
            BlockArgs("FusedMBConvSERes", 24, 24, 3, 2, 1, "swish"), BlockArgs("ResNet", 24, 40, 3, 1, 2, "relu"),
            BlockArgs("FeatureMix", 40, 64, 1, None, 1, "hswish"), BlockArgs("Logits", 64, 10)]
    torch.manual_seed(0)
    net = QNetwork(NetSpec((("stage", tuple(map(build_block, args))),), 24)).train()
    for epochs, rate in ((3, 0.005), (1, 0.001)):
        optimizer = torch.optim.Adam(net.parameters(), rate)
        for images, labels in train * epochs:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
        if rate == 0.005:
            mode.apply(net)
    return net.eval(), [images for images, _ in train[:4]], valid


def assert_answers_kept(placement: str, open_graph: Callable[[Graph], Session]) -> None:
    """A network trained in int8 at `placement` and its file, which `open_graph` writes and opens, answer alike."""
    net, calibration, valid = digits_network(QuantMode(placement=placement))
    agreement = compare(net, open_graph(lower(net, calibration)), valid)
    assert agreement.images == 355
    assert agreement.top1_network > 90
    assert agreement.differing <= 3
    assert agreement.margin_in_errors < 4
    if placement == "engine":
        assert agreement.mean_logit_error < 2e-3
