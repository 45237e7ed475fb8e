"""EfficientNet-B0 and its public weights in both forms, against torchvision's network and the teacher's."""
import numpy as np
import pytest
import torch
from deploy_nets import lively

from modules.block_kd.teacher.efficientnet import TENSORFLOW_NORM, EfficientNet
from modules.deploy.graph.lower import lower
from modules.deploy.graph.plan import make_plan
from modules.deploy.graph.reference import execute
from modules.deploy.to_onnx.writer import onnx_bytes
from modules.deploy.to_tflite.writer import tflite_bytes
from modules.modeling.net_spec import resolve
from modules.modeling.network import QNetwork
from modules.modeling.restore import load_supernet
from modules.runtime.litert import open_session as open_tflite
from modules.runtime.ort import open_session
from modules.runtime.session import predict
from modules.search_space.reference import read_network
from modules.training.evaluation import extract_calibrated
from modules.utils.errors import UserError
from modules.utils.torchvision_compat import import_torchvision

CLASSES = 7


@pytest.fixture(scope="module", params=["efficientnet_b0", "efficientnet_b0_tf"])
def published(request, tmp_path_factory):
    """(network, the one its public weights are of, a file of such weights)."""
    torch.manual_seed(0)
    if request.param == "efficientnet_b0":
        theirs = import_torchvision().models.efficientnet_b0(num_classes=CLASSES)
    else:
        theirs = EfficientNet(1.0, 1.0, CLASSES, "tensorflow", TENSORFLOW_NORM)
    lively(theirs)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(theirs.state_dict(), path)
    return read_network(request.param), theirs.eval(), path


def test_public_weights_give_the_network_they_are_of(published):
    network, theirs, path = published
    supernet, record = load_supernet(path, network.space, quant_mode=False)
    assert len(record.classes) == CLASSES
    assert record.keeps_statistics
    ours = extract_calibrated(supernet, network.subnet, None)
    ours.resolution = 80
    images = torch.randn(2, 3, 80, 80, generator=torch.Generator().manual_seed(1))  # 40, 20, 10, 5, 3 pixels
    with torch.no_grad():
        expected = theirs(images)
        assert expected.std() > 0.01
        torch.testing.assert_close(ours(images), expected, rtol=1e-3, atol=2e-4 * expected.abs().max().item())


def test_weights_of_another_network_are_refused(published, tmp_path):
    network, _, path = published
    other = {"efficientnet_b0": "efficientnet_b0_tf", "efficientnet_b0_tf": "efficientnet_b0"}[network.space.superspace]
    for name in (other, "resnet20"):
        with pytest.raises(UserError, match=f"not for {name}; allowed with --network {network.space.superspace}"):
            load_supernet(path, read_network(name).space, quant_mode=False)
    with pytest.raises(UserError, match="in fp32; --quant_mode needs"):
        load_supernet(path, network.space, quant_mode=True)
    weights = torch.load(path, weights_only=True)
    del weights[next(key for key in weights if "5" in key)]
    torch.save(weights, tmp_path / "part.pth")
    with pytest.raises(UserError, match="has no tensor"):
        load_supernet(tmp_path / "part.pth", network.space, quant_mode=False)


def test_tensorflows_padding_in_files():
    network = read_network("efficientnet_b0_tf:0.25_r72")  # 36, 18, 9, 5, 3 pixels
    torch.manual_seed(0)
    net = lively(QNetwork(resolve(network.space, network.subnet, CLASSES)))
    images = torch.randn(2, 3, 72, 72)
    with torch.no_grad():
        expected = net(images).numpy()
    graph = lower(net)
    plan = make_plan(graph)
    for result in (execute(plan, images.numpy())[plan.output.name], predict(open_session(onnx_bytes(graph)),
                   images.numpy()), predict(open_tflite(tflite_bytes(graph)), images.numpy())):
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
