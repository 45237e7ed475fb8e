"""Checkpoints that are damaged, foreign or not finite are refused in one line that names the file and the fault."""
import errno
import os
import pickle
import zipfile

import pytest
import torch

from modules.modeling.ops.op import QConv
from modules.modeling.quant_mode import QuantMode
from modules.modeling.restore import ModelRecord
from modules.utils.archives import stored
from modules.utils.checkpoint import load_checkpoint, load_weights, save_checkpoint, weights_digest
from modules.utils.errors import UserError

STATE = {"state_dict": {"a.weight": torch.arange(6.0).view(2, 3), "a.count": torch.tensor(3)}, "epoch": 4,
         "history": [{"loss": torch.tensor(0.5)}]}


@pytest.fixture
def path(tmp_path):
    save_checkpoint(tmp_path / "c.pth", STATE)
    return tmp_path / "c.pth"


def refused(path, *words, **options):
    with pytest.raises(UserError) as error:
        load_checkpoint(path, **options)
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


def test_round_trip(path):
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["a.weight"], STATE["state_dict"]["a.weight"])
    assert (loaded["epoch"], loaded["history"]) == (4, [{"loss": torch.tensor(0.5)}])


def data_at(path, member):
    """Where the bytes of a stored member begin in the archive."""
    with zipfile.ZipFile(path) as archive:
        start = next(m for m in archive.infolist() if m.filename.endswith(member)).header_offset
    header = path.read_bytes()[start : start + 30]
    return start + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


@pytest.mark.parametrize("member", ["data/0", "data.pkl", "byteorder"])
def test_every_flipped_bit_of_a_member_is_seen(path, member):
    whole, start = path.read_bytes(), data_at(path, member)
    for bit in range(16):
        damaged = bytearray(whole)
        damaged[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        refused(path, "damaged", member)


def test_cut_anywhere(path):
    whole = path.read_bytes()
    for length in (0, 1, 2, 3, 4, 5, 30, 100, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_tensor_that_is_not_finite_is_named(tmp_path, value, dtype):
    bad = torch.zeros(4, 3, dtype=dtype)
    bad[2, 1] = value
    torch.save({"state_dict": {"good": torch.ones(2), "layer.0.weight": bad}}, tmp_path / "c.pth")
    refused(tmp_path / "c.pth", "'state_dict.layer.0.weight'", "not finite", "1 of its 12 values")


def test_what_is_no_checkpoint(tmp_path):
    path = tmp_path / "c.pth"
    for content, word in ((torch.ones(2), "Tensor"), ([1, 2], "list"), ({1: 2}, "dict"), (None, "NoneType")):
        torch.save(content, path)
        refused(path, "not a checkpoint", word)
    path.write_bytes(b"no checkpoint at all")
    refused(path)
    refused(tmp_path, "is a folder")
    refused(tmp_path / "none.pth", "does not exist")


def test_compressed_members_are_refused_before_they_are_unpacked(path, tmp_path):
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for member in whole.namelist():
            packed.writestr(member, bytes(50_000_000) if member.endswith("data/0") else whole.read(member))
    assert bomb.stat().st_size < 200_000
    refused(bomb, "compressed")


def test_members_that_overlap_are_refused(path):
    content = bytearray(path.read_bytes())
    start = content.rfind(b"PK\x01\x02")  # the last entry of the directory; its sizes stand 20 and 24 bytes further
    for at in (20, 24):
        content[start + at : start + at + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)
    refused(path)


def test_members_are_counted_before_they_are_read(path, monkeypatch):
    with zipfile.ZipFile(path) as archive:
        count = len(archive.infolist())
    monkeypatch.setattr(stored, "_MOST_MEMBERS", count)
    assert load_checkpoint(path)["epoch"] == 4
    monkeypatch.setattr(stored, "_MOST_MEMBERS", count - 1)
    refused(path, f"has {count} members; at most {count - 1} are read")


def test_tensor_larger_than_its_bytes(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**12)}, tmp_path / "c.pth")  # finiteness of these would take 4 TB
    refused(tmp_path / "c.pth", "'a'", "1000000000000 values")


def test_sparse_and_meta_tensors_are_refused(tmp_path):
    for tensor in (torch.eye(3).to_sparse(), torch.empty(3, device="meta")):
        torch.save({"a": tensor}, tmp_path / "c.pth")
        refused(tmp_path / "c.pth")


class Foreign:
    """An object in a foreign checkpoint; it would write a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_foreign_objects_stay_inert(tmp_path):
    torch.save({"model": {"w": torch.ones(2)}, "args": Foreign(tmp_path / "ran")}, tmp_path / "c.pth")
    loaded = load_checkpoint(tmp_path / "c.pth")
    assert not (tmp_path / "ran").exists()
    assert torch.equal(loaded["model"]["w"], torch.ones(2))
    (tmp_path / "p.pth").write_bytes(pickle.dumps(Foreign(tmp_path / "ran")))
    refused(tmp_path / "p.pth")
    assert not (tmp_path / "ran").exists()


def test_missing_keys_are_named(path):
    refused(path, "no 'optimizer'", form={"epoch": int, "optimizer": dict})
    refused(path, "epoch is 4; expected text", form={"epoch": str})
    assert load_checkpoint(path, form={"epoch": int})["epoch"] == 4


def test_a_checkpoint_without_weights_says_what_it_holds():
    for content, held in (({"epoch": 1, "optimizer": {}}, "epoch, optimizer"), ({"state_dict": [1]}, "state_dict"),
                          ({"model": {1: torch.ones(1)}}, "model")):
        with pytest.raises(UserError, match=rf"c\.pth' has no 'state_dict' or 'model' with named .*holds: '?{held}"):
            load_weights(torch.nn.Linear(1, 1), content, "c.pth")


def test_a_quantisation_of_another_program_is_refused():
    record = ModelRecord("onnxw_tiny-000000-000000", (32,), ("a", "b"), quant=QuantMode())
    assert ModelRecord.from_dict(record.to_dict(), "c.pth") == record
    values = record.to_dict()
    values["quant"]["bits"] = 4
    with pytest.raises(UserError, match=r"^c\.pth: config\.quant has 'bits'; known: .*placement"):
        ModelRecord.from_dict(values, "c.pth")


@pytest.mark.parametrize("name", ["weight_scale", "activation_scale", "sw", "sa"])
def test_scale_of_zero_is_named(name):
    layer = torch.nn.Sequential(QConv(3, 4, 1))
    weights = layer.state_dict() | {f"0.{name}": torch.zeros(1)}
    for ours, published in (("weight_scale", "sw"), ("activation_scale", "sa")):
        if name == published:
            del weights[f"0.{ours}"]
    with pytest.raises(UserError, match=r"c\.pth.*0\.(weight|activation)_scale is 0"):
        load_weights(layer, {"state_dict": weights}, "c.pth")


def test_full_disk_is_the_systems_error_and_keeps_the_file(path, monkeypatch):
    import modules.utils.checkpoint as home

    before = path.read_bytes()

    class Full(home._Writer):
        """A file on a disk with room for 100 bytes more."""

        def write(self, content):
            if self.file.tell() + len(content) > 100:
                self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                raise self.error
            return super().write(content)

    monkeypatch.setattr(home, "_Writer", Full)
    with pytest.raises(OSError, match="No space left") as error:
        save_checkpoint(path, {"state_dict": {"a": torch.zeros(10_000)}})
    assert error.value.filename == str(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["c.pth"]


def test_names_lose_the_prefix_of_wrappers_alone():
    model = torch.nn.ModuleDict({"attention_module": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
    wrapped = {f"module.{name}": value + 1 for name, value in model.state_dict().items()}
    inner = {name.replace("head.", "head.module.module."): value + 2 for name, value in model.state_dict().items()}
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for weights, more in ((dict(model.state_dict()), 0), (wrapped, 1), (inner, 2)):
        load_weights(model, {"state_dict": {name: value.clone() for name, value in weights.items()}}, "a.pth")
        assert all(torch.equal(value, start[name] + more) for name, value in model.state_dict().items())


def test_a_digest_tells_values_and_names_of_any_type_apart():
    states = [{"a": torch.ones(2)}, {"b": torch.ones(2)}, {"a": torch.zeros(2)},
              {"a": torch.ones(2, dtype=torch.bfloat16)}, {"a": torch.tensor(1.0)}, {"a": torch.tensor([True, False])}]
    assert len({weights_digest(state) for state in states}) == len(states)
    assert weights_digest({"a": torch.nn.Parameter(torch.ones(2)), "a.running_mean": torch.zeros(1)}) == weights_digest(
        {"a": torch.ones(2)})
