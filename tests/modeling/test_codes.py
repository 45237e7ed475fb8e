"""Codes mean the same to training, which has tensors, and to the engines' files, which have arrays."""
import numpy as np
import pytest
import torch
from deploy_nets import every_block_type, quantized, subnet

from modules.deploy.graph.graph import WeightNode
from modules.deploy.graph.lower import lower
from modules.latency.keys import block_key, parse_key
from modules.modeling.codes import LEAST_SCALE, MOST_STEPS, integer_zero_point, is_dead
from modules.modeling.complexity import blocks_of
from modules.modeling.integer_bias import rounding_error
from modules.modeling.net_spec import resolve
from modules.modeling.spec import output_size
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace


@pytest.mark.parametrize(("scale", "beta", "code"), [
    (0.02, -1.0, 50), (0.5, -1.25, 2), (0.5, -0.75, 2), (0.5, 0.3, 0), (0.1, -100.0, 255), (1.0, -0.0, 0)])
def test_zero_point(scale, beta, code):
    """Half to even, within the codes; the same of a number, an array and a tensor."""
    scale, beta = np.float32(scale), np.float32(beta)
    assert integer_zero_point(scale, beta, 255) == code
    assert integer_zero_point(np.array([scale]), np.array([beta]), 255).tolist() == [code]
    assert integer_zero_point(torch.tensor([scale]), torch.tensor([beta]), 255).tolist() == [code]


def test_dead_channels_agree_to_the_bit():
    """Biases at the bound, and a few units of the last place around it: there the order of roundings decides."""
    rng = np.random.default_rng(0)
    scales, step = rng.uniform(1e-9, 1e-6, 4000).astype(np.float32), np.float32(0.0173)
    bias = MOST_STEPS * scales * step
    for _ in range(3):
        bias = np.where(rng.random(len(bias)) < 0.5, np.nextafter(bias, np.float32(np.inf)), bias)
        bias = np.where(rng.random(len(bias)) < 0.5, np.nextafter(bias, np.float32(0)), bias)
    bias *= rng.choice(np.float32([-1, 1]), len(bias))
    scales[:10] = np.float32(LEAST_SCALE / 2)
    array = is_dead(bias, scales, step)
    tensor = is_dead(torch.from_numpy(bias).double(), torch.from_numpy(scales), torch.tensor([step]))
    assert 500 < array.sum() < 3500
    assert array.tolist() == tensor.tolist()
    assert array[:10].all()
    # A live channel's error is within half a step, and a dead one's is none.
    error = rounding_error(torch.from_numpy(bias).double(), torch.from_numpy(scales), torch.tensor(step))
    assert (error[tensor] == 0).all()
    assert (error[~tensor].abs() <= torch.from_numpy(np.spacing(np.abs(bias)) + scales * step)[~tensor]).all()


def test_lowering_finds_the_dead_channels_of_training():
    """A network with norms of gamma zero: the channels without codes are those that training leaves as they are."""
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    graph = lower(quantized(subnet("onnxw_tiny-000000"), images), [images])
    layers = [node for node in graph.nodes if isinstance(node, WeightNode)]
    empty = [~node.codes.reshape(len(node.codes), -1).any(1) for node in layers]
    assert sum(dead.sum() for dead in empty) > 20
    for node, dead in zip(layers, empty, strict=True):
        steps = np.abs(node.bias) / (node.scales.astype(np.float64) * node.quantizer.scale)
        assert (steps[~dead] <= MOST_STEPS * (1 + 1e-6)).all()
        assert (steps[dead] <= 2**20 * (1 + 1e-6)).all()


@pytest.mark.parametrize("encoding", list(every_block_type()))
def test_key_of_a_block_round_trips(encoding):
    config = SupernetConfig.from_str(encoding)
    for pick in (min, max):
        for key in blocks_of(resolve(config, SubnetSpace(config, (64,)).extreme(pick))):
            assert parse_key(block_key(*key)) == key


@pytest.mark.parametrize(("size", "kernel", "stride"), [
    (7, 3, 2), (8, 3, 2), (8, 5, 1), (9, 1, 2), (1, 7, 2), (8, 3, 3)])
def test_output_size_is_that_of_a_convolution(size, kernel, stride):
    conv = torch.nn.Conv2d(1, 1, kernel, stride, kernel // 2)
    assert conv(torch.zeros(1, 1, size, size)).shape[-1] == output_size(size, stride)
