"""ONNX files against the torch network, and an integer convolution against integer arithmetic by hand."""
import numpy as np
import pytest
import torch
import yaml
from deploy_nets import conv_node, every_block_type, integer_conv, quantized, subnet

from modules.deploy.check.agreement import compare
from modules.deploy.graph.builder import AnyRange, SyntheticWeights, build_graph
from modules.deploy.graph.graph import Graph, Node, Quantizer, WeightNode
from modules.deploy.graph.lower import lower
from modules.deploy.graph.ranges import observe_ranges
from modules.deploy.graph.untrained import untrained_graph
from modules.deploy.to_onnx.writer import onnx_bytes, write_onnx
from modules.modeling.net_spec import resolve
from modules.runtime.ort import open_session, optimized_ops
from modules.runtime.session import predict
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY


@pytest.mark.parametrize("encoding", list(every_block_type()))
def test_onnx_equals_the_network_for_every_block_type(encoding, tmp_path):
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    net = subnet(encoding)
    with torch.no_grad():
        reference = net(images).numpy()
    result = predict(open_session(onnx_bytes(lower(net))), images.numpy())
    np.testing.assert_allclose(result, reference, atol=2e-5 * np.abs(reference).max())

    quantized(net, images, shift=1.3)
    path = tmp_path / "int8.onnx"
    write_onnx(lower(net, [images]), path)
    with torch.no_grad():
        fake = net(images).numpy()
    result = predict(open_session(path), images.numpy())
    # Codes of the engine without a trained quantiser cost little; a wrong scale anywhere costs everything.
    assert (result - fake).std() < 0.15 * fake.std()
    assert "Conv" not in optimized_ops(path, tmp_path)


@pytest.mark.parametrize("act", ["", "relu", "relu6"])
@pytest.mark.parametrize("stride", [1, 2])
def test_integer_convolutions_equal_arithmetic_by_hand(act, stride):
    rng = np.random.default_rng(5)
    first = conv_node("a", "input", 5, 16, 3, rng, stride)
    second = conv_node("b", "a.act" if act else "a", 16, 8, 1, rng)
    nodes = [first, *([Node("act", ("a",), "a.act", act)] if act else []), second]
    graph = Graph(nodes, (5, 9, 9), {"b": (-3.0, 5.0)})
    image = rng.normal(0, 1, (2, 5, 9, 9)).astype(np.float32)
    result = predict(open_session(onnx_bytes(graph)), image)

    def code(x, quantizer):
        return np.clip(np.round(x / quantizer.scale) + quantizer.zero_point, 0, 255)

    codes, step = code(image, first.quantizer), np.float32(8 / 255)  # step of the range given for "b"
    for node, out in ((first, second.quantizer), (second, Quantizer(step, round(3 / step)))):
        scale = np.float32(node.quantizer.scale) * node.scales / np.float32(out.scale)
        value = integer_conv(codes, node).astype(np.float32) * scale[:, None, None]
        codes = np.clip(np.round(value) + out.zero_point, 0, 255)
        if node is first and act:
            top = out.zero_point + np.round(np.float32(6) / out.scale) if act == "relu6" else 255
            codes = np.clip(codes, out.zero_point, min(top, 255))
    np.testing.assert_array_equal(result, (codes - out.zero_point).astype(np.float32) * out.scale)


def test_folded_norm_gives_the_trained_integers_and_their_product():
    # A chain without activations between quantisers: the engine may differ from the fake-quantised network by rounding
    # at a tie only, though gammas are negative or zero.
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    net = quantized(subnet("mobile_v1-000000"), images)
    graph = lower(net, [images])
    for node in graph.nodes:
        if isinstance(node, WeightNode) and node.output == "stage1.0.point_conv":
            module, norm = net.stages["stage1"][0].point_conv.conv, net.stages["stage1"][0].point_conv.norm
            scale = module.weight_scale.item()
            trained = np.clip(np.round(module.weight.detach().numpy() / np.float32(scale)), -127, 127)
            gamma = norm.weight.detach().numpy()
            sign = np.where(gamma < 0, -1, 1)[:, None, None, None]
            np.testing.assert_array_equal(node.codes[gamma != 0], (trained * sign)[gamma != 0])
            assert not node.codes[gamma == 0].any()
            step = node.quantizer.scale * node.scales.astype(np.float64)
            assert (np.abs(np.round(node.bias / step) * step - node.bias) <= 0.5001 * step).all()
            assert np.abs(node.bias / step).max() < 2**31
            break
    else:
        pytest.fail("no such node")


@pytest.mark.parametrize("bits", [8, 7, 4])
def test_random_weights_fill_the_range_of_their_bits(bits):
    """As trained ones do. onnxruntime has other kernels for weights within 64 codes of 0 on some processors."""
    config = SupernetConfig.from_str("onnxw_tiny-444444")
    graph = untrained_graph(config, SubnetSpace(config, (32,)).extreme(min), True, 10, bits)
    nodes = [node for node in graph.nodes if isinstance(node, WeightNode)]
    assert len(nodes) > 10
    for node in nodes:
        codes = node.codes.astype(int)
        assert codes.max() == 2 ** (bits - 1) - 1
        assert codes.min() >= -codes.max()
        assert codes.size < 200 or np.abs(codes).mean() == pytest.approx(2 ** (bits - 2), rel=0.25)
        spread = (codes * np.float64(node.scales[0])).std() * np.sqrt(codes[0].size)
        assert spread == pytest.approx(1, rel=0.25)  # keeps the variance of the signal


def test_ranges_are_those_of_the_tensors():
    images = torch.randn(6, 3, 32, 32)
    net = subnet("onnxw_tiny-444444")
    seen = {}
    block = net.stages["stage2"][0]
    hooks = [block.conv1.norm.register_forward_hook(lambda m, i, o: seen.update(conv1=o.clone())),
             block.register_forward_hook(lambda m, i, o: seen.update(out=o.clone()))]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    ranges = observe_ranges(net, [images[:2], images[2:]])
    assert ranges["stage2.0.conv1"] == (seen["conv1"].min().item(), seen["conv1"].max().item())
    assert ranges["stage2.0.out"] == (seen["out"].min().item(), seen["out"].max().item())
    assert ranges["stage2.0.out"][0] == 0


def test_a_network_without_trained_quantisers_is_refused():
    net = subnet("onnxw_tiny-000000")
    with pytest.raises(UserError, match=r"lsq\.pth"):
        lower(net, [torch.randn(2, 3, 32, 32)])


def test_agreement_counts_differing_images():
    images = torch.randn(20, 3, 32, 32)
    net = subnet("onnxw_tiny-000000")
    session = open_session(onnx_bytes(lower(net)))
    labels = net(images).argmax(1)
    labels[:5] = (labels[:5] + 1) % 10
    same = compare(net, session, [(images[:12], labels[:12]), (images[12:], labels[12:])])
    assert (same.images, same.differing, same.top1_network, same.top1_model) == (20, 0, 75, 75)
    with torch.no_grad():
        net.stages["logits"][0].linear.bias[3] += 1e3
    other = compare(net, session, [(images, labels)])
    assert other.differing == (net(images).argmax(1) != labels.where(torch.arange(20) >= 5, (labels - 1) % 10)).sum()
    assert other.max_logit_error == pytest.approx(1e3, rel=1e-3)


def published_subnets():
    with open(REPOSITORY / "data" / "search_results.yaml") as file:
        found = yaml.safe_load(file)
    for name, entry in found["subnets"].items():
        slow = () if name == "SEQnet@vnni-A0" else (pytest.mark.slow,)
        yield pytest.param(found["supernets"][entry["supernet"]], entry["subnet"], id=name, marks=slow)


def written_again(graph) -> int:
    """How many results of convolutions are needed in further codes, since several layers with their own read them."""
    producers, count = {node.output: node for node in graph.nodes}, 0
    for tensor, readers in graph.consumers.items():
        producer = producers.get(tensor)
        if producer is not None and producer.op == "act":
            producer = producers[producer.inputs[0]]
        if producer is not None and producer.op == "conv" and all(isinstance(node, WeightNode) for node in readers):
            count += len({node.quantizer for node in readers}) - 1
    return count


@pytest.mark.parametrize(("encoding", "choice"), list(published_subnets()))
def test_published_subnets_run_in_integers(encoding, choice, tmp_path):
    config, choice = SupernetConfig.from_str(encoding), SubnetChoiceConfig.from_str(choice)
    spec = resolve(config, choice)
    graph = build_graph(list(spec.blocks), SyntheticWeights(), (3, spec.resolution, spec.resolution))
    graph.ranges = AnyRange()
    write_onnx(graph, tmp_path / "net.onnx", {"subnet": choice})
    operators = optimized_ops(tmp_path / "net.onnx", tmp_path)
    integer = {"QLinearConv", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearGlobalAveragePool", "QGemm"}
    again = written_again(graph)
    assert set(operators) <= integer | {"QuantizeLinear", "DequantizeLinear", "Pad", "Clip", "Transpose", "Flatten"}
    assert operators["QLinearConv"] == sum(node.op == "conv" for node in graph.nodes)
    assert operators["QuantizeLinear"] == 1 + again  # the image
    assert operators.get("DequantizeLinear", 0) == again
    assert operators["Transpose"] <= 2  # the image, and the last map, on the way into the classifier
    session = open_session(tmp_path / "net.onnx")
    assert session.metadata["subnet"] == str(choice)
    logits = predict(session, np.random.default_rng(0).standard_normal((1, 3, spec.resolution, spec.resolution),
                                                                       dtype=np.float32))
    assert logits.shape == (1, 1000)
    assert np.isfinite(logits).all()


def test_a_file_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_session(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match="cannot be opened"):
        open_session(tmp_path / "bad.onnx")
