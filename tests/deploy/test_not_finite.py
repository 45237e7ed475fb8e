"""Networks and model files that are not finite have no accuracy and no export; the file and the layer are named."""
import copy

import pytest
import torch
from deploy_nets import quantized, subnet

from modules.deploy.check.agreement import compare, predict_batches
from modules.deploy.graph.lower import lower
from modules.runtime.metadata import Metadata, read_classes, read_crop_size, read_normalization
from modules.runtime.session import Input
from modules.training.evaluation import evaluate
from modules.utils.errors import UserError


class Broken(torch.nn.Module):
    """Gives NaN for the second image."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        logits = torch.arange(3.0).expand(len(images), 3).clone() * self.scale
        logits[1] = float("nan")
        return logits


class BrokenSession:
    """A model file that does the same."""

    def get_inputs(self):
        return [Input("input", (1, 3, 8, 8))]

    def run(self, _, feeds):
        return [Broken()(torch.from_numpy(feeds["input"])).detach().numpy()]


BATCHES = [(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))]


def test_networks_are_not_scored():
    with pytest.raises(UserError, match=r"subnet x of 'c\.pth' is not finite: its loss over 4 images is nan"):
        evaluate(Broken(), BATCHES, "subnet x of 'c.pth'")


def test_model_files_are_not_scored():
    with pytest.raises(UserError, match=r"model 'm\.onnx' is not finite: logits of 1 of 4 images"):
        list(predict_batches(BrokenSession(), BATCHES, Metadata({}, "m.onnx").where))
    with pytest.raises(UserError, match="the model is not finite"):
        compare(lambda images: torch.zeros(len(images), 3), BrokenSession(), BATCHES)


@pytest.fixture(scope="module")
def net():
    return quantized(subnet("onnxw_tiny-000000-000000"), torch.randn(4, 3, 32, 32))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["weight_scale", "activation_scale"])
def test_scales_that_cannot_be_exported_name_file_and_layer(net, name, value):
    broken = copy.deepcopy(net)
    module = next(m for _, m in broken.named_modules() if hasattr(m, name))
    getattr(module, name).data.fill_(value)
    with pytest.raises(UserError, match=rf"lsq\.pth: layer '.*': its {name.replace('_', ' ')} is"):
        lower(broken, [torch.zeros(2, 3, 32, 32)], "lsq.pth")


@pytest.mark.parametrize("int8", [False, True])
def test_weights_that_cannot_be_exported_name_file_and_layer(net, int8):
    broken = copy.deepcopy(net)
    next(m for m in broken.modules() if isinstance(m, torch.nn.Conv2d)).weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"lsq\.pth: layer '.*': its weight"):
        lower(broken, [torch.zeros(2, 3, 32, 32)] if int8 else None, "lsq.pth")


GOOD = {"classes": '["a", "b"]', "mean": "[0.5, 0.5, 0.5]", "std": "[0.2, 0.2, 0.2]", "crop_size": "32"}


def read_all(metadata):
    return read_classes(metadata), read_normalization(metadata), read_crop_size(metadata)


def test_metadata_are_read():
    assert read_all(Metadata(GOOD, "m.onnx")) == (["a", "b"], ([0.5] * 3, [0.2] * 3), 32)


@pytest.mark.parametrize(("key", "value"), [
    ("classes", "[]"), ("classes", "[1, 2]"), ("classes", "a"), ("mean", "[0.5]"), ("mean", "[NaN, 0, 0]"),
    ("std", "[0, 0.2, 0.2]"), ("std", '{"a": 1}'), ("crop_size", "-1"), ("crop_size", "1e9"), ("crop_size", "²")])
def test_metadata_that_are_wrong_name_file_and_key(key, value):
    with pytest.raises(UserError, match=rf"m\.onnx.*{key}"):
        read_all(Metadata(GOOD | {key: value}, "m.onnx"))
    with pytest.raises(UserError, match=rf"m\.onnx.*no '{key}'"):
        read_all(Metadata({k: v for k, v in GOOD.items() if k != key}, "m.onnx"))
