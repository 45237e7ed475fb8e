"""Names and shapes of published checkpoints, and their loading and writing back."""
import pytest
import torch
import yaml

from modules.block_kd.student.model import StagePlusProj
from modules.modeling.net_spec import resolve
from modules.modeling.network import QNetwork
from modules.modeling.ops.lsq_plus import QBase, has_trained_quantizers, to_published
from modules.modeling.ops.op import QConv
from modules.modeling.restore import holds_int8
from modules.modeling.supernet import Supernet
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.utils.files import REPOSITORY

SUPERNETS = ["mobilew-122222-155400", "mobilew-065432-000000", "onnxw-054321-000000"]
SUBNETS = ["SEQnet@pixel4-A0", "SEQnet@vnni-A0"]
TEACHER_CIN, TEACHER_COUT = (48, 24, 40, 64, 128, 176, 304), (24, 40, 64, 128, 176, 304, 512)  # stage0 ... stage6
RESULTS = yaml.safe_load((REPOSITORY / "data" / "search_results.yaml").read_text())


def build_subnet(name):
    """A subnet of data/search_results.yaml."""
    entry = RESULTS["subnets"][name]
    config = SupernetConfig.from_str(RESULTS["supernets"][entry["supernet"]])
    return QNetwork(resolve(config, SubnetChoiceConfig.from_str(entry["subnet"])))


def build_student(name):
    """The student of `<superspace>/<stage>_<block>` for the published teacher."""
    superspace, _, student = name.partition("/")
    stage, _, block = student.partition("_")
    i = int(stage.removeprefix("stage"))
    return StagePlusProj(superspace, stage, int(block), TEACHER_CIN[i], TEACHER_COUT[i])


@pytest.fixture(scope="module")
def keys(shared_json):
    """Contents of a file of names and shapes."""
    return lambda name: shared_json("facts", "state_dict_keys", f"{name}.keys.json")


def shapes(module):
    """Published names and shapes of a module's state."""
    return {key: list(value.shape) for key, value in to_published(module.state_dict()).items()}


@pytest.mark.parametrize("encoding", SUPERNETS)
def test_supernet_names(keys, encoding):
    """The same entries with the same shapes."""
    with torch.device("meta"):
        assert shapes(Supernet.build_from_str(encoding)) == keys(encoding)


@pytest.mark.parametrize("name", SUBNETS)
def test_subnet_names(keys, name):
    """The same for networks of their own."""
    with torch.device("meta"):
        assert shapes(build_subnet(name)) == keys(f"{name}.subnet")


def test_student_names(keys):
    """All 78 block students."""
    published = keys("block_kd_students")
    assert len(published) == 78
    with torch.device("meta"):
        for name, expected in published.items():
            assert shapes(build_student(name)) == expected, name


def random_state(published_shapes, started):
    """Random values under published names; quantisers at their defaults unless `started(layer)`."""
    generator, state = torch.Generator().manual_seed(0), {}
    for key, shape in published_shapes.items():
        layer, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            state[key] = torch.tensor(7)
        elif leaf in ("sa", "sw", "beta") and not started(layer):
            state[key] = torch.zeros(1) if leaf == "beta" else torch.ones(1)
        else:
            state[key] = torch.rand(shape, generator=generator) + 0.01
    return state


def assert_same_state(a, b):
    """The same keys with equal tensors."""
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("file", "build"), [
    ("onnxw-054321-000000", Supernet.build_from_str),
    ("SEQnet@pixel4-A0.subnet", lambda name: build_subnet(name.removesuffix(".subnet"))),
    ("SEQnet@vnni-A0.subnet", lambda name: build_subnet(name.removesuffix(".subnet"))),
])
def test_published_state_loads(keys, file, build):
    """Strictly, by plain `load_state_dict`; it comes back unchanged; a layer at its defaults counts as not started."""
    state = random_state(keys(file), started=lambda layer: "stage4" not in layer)
    kept = dict(state)
    module = build(file)
    module.load_state_dict(state)
    assert_same_state(state, kept)  # the caller's dictionary is left alone
    assert_same_state(to_published(module.state_dict()), state)
    layers = {name: m for name, m in module.named_modules() if isinstance(m, QBase)}
    assert {bool(m.initialized.all()) for m in layers.values()} == {True, False}
    for name, layer in layers.items():
        expected = "stage4" not in name
        assert layer.initialized.tolist() == [expected, expected]


def test_published_student_loads(keys):
    """A student too, projections included."""
    name = "onnxw/stage3_5"
    student = build_student(name)
    state = random_state(keys("block_kd_students")[name], started=lambda layer: True)
    student.load_state_dict(state)
    assert_same_state(to_published(student.state_dict()), state)
    assert student.in_proj.initialized.all()


@pytest.mark.parametrize("changed", ["sa", "sw", "beta"])
def test_one_changed_value_means_started(changed):
    """Any of the three published values away from its default."""
    layer = torch.nn.ModuleDict({"conv": QConv(2, 2, 1)})
    state = {"conv.weight": torch.ones(2, 2, 1, 1), "conv.bias": torch.ones(2), "conv.sa": torch.ones(1),
             "conv.sw": torch.ones(1), "conv.beta": torch.zeros(1)}
    layer.load_state_dict(dict(state))
    assert not layer["conv"].initialized.any()
    assert not has_trained_quantizers(state)
    state[f"conv.{changed}"] = torch.full((1,), 0.5)
    assert has_trained_quantizers(state)
    layer.load_state_dict(state)
    assert layer["conv"].initialized.all()


def test_own_names_round_trip():
    """Our own state, started or not, loads into a fresh network; strictness still finds missing and foreign names."""
    source = Supernet.build_from_str("onnxw_tiny-054321-000000", 4)
    layers = [m for m in source.modules() if isinstance(m, QBase)]
    layers[3].initialized[0] = True
    layers[5].initialized[:] = True
    state = source.state_dict()
    assert any(key.endswith(".weight_scale") for key in state)
    target = Supernet.build_from_str("onnxw_tiny-054321-000000", 4)
    target.load_state_dict(state)
    assert_same_state(target.state_dict(), state)
    with pytest.raises(RuntimeError, match=r"Missing key.*logits\.blocks\.0\.linear\.weight_scale"):
        target.load_state_dict({k: v for k, v in state.items() if "linear.weight_scale" not in k})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other"):
        target.load_state_dict({**state, "other": torch.ones(1)})


@pytest.mark.parametrize("content", [
    {"state_dict": [1, 2]}, {"state_dict": {1: torch.ones(1)}}, {"sa": "x", "sw": "y", "beta": "z"},
    {"a.sa": torch.ones(2), "a.sw": torch.ones(1), "a.beta": torch.zeros(1)}])
def test_what_is_no_published_checkpoint_holds_no_int8(content, tmp_path):
    """Its reader refuses it in one line; a look at its precision does not fail before."""
    torch.save(content, tmp_path / "x.pth")
    assert not holds_int8(tmp_path / "x.pth")
