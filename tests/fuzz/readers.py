"""Every reader of the project, with a valid input of each: `READERS[name]` is (valid contents, function of a path)."""
import dataclasses
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch

from modules.block_kd.lut.other_stages import load_other_stages
from modules.block_kd.lut.report import _points
from modules.block_kd.lut.rows import TableRow
from modules.block_kd.lut.tables import how_made, load_tables
from modules.block_kd.student.files import StudentRecord
from modules.block_kd.teacher.files import TeacherRecord
from modules.datasets.archives import open_tar, open_zip
from modules.datasets.decode import decode
from modules.deploy.cards.card import read_card
from modules.latency.cache import LatencyCache
from modules.latency.fitted.block_model import BlockModel
from modules.latency.keys import parse_key
from modules.latency.profile.design import Net
from modules.latency.profile.journal import Journal, Row
from modules.latency.profile.plan import Plan, Settings
from modules.latency.profile.profiled import SHIPPED, load_profiled
from modules.latency.profile.wholenet import TERMS
from modules.latency.table import read_table
from modules.modeling.quant_mode import QuantMode
from modules.modeling.restore import ModelRecord
from modules.runtime.litert import read_metadata
from modules.runtime.metadata import Metadata, read_classes, read_crop_size, read_normalization
from modules.search.subnet.tables import read_points
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.networks.structure import Structure
from modules.search_space.subnet_list import read_subnets
from modules.search_space.subnet_space import SubnetSpace
from modules.training.config import load_yaml
from modules.utils.archives.arrays import read_arrays
from modules.utils.checkpoint import load_checkpoint, load_weights
from modules.utils.csv_files import read_records, read_rows
from modules.utils.files import REPOSITORY
from modules.utils.json_files import read_json
from modules.utils.runs import Run

SPACE = SupernetConfig.from_choice("onnxw_tiny", "512202-012000")
SUBNET = "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#32#56#56#96#128_e0#0.5#1.0#4.0#4.0#4.0#0#4.0_r32"
KEY = "MobileNetV2ResBlock_14_112_112_3_4_1_relu6"


def _saved(state) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _checkpoint() -> bytes:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    record = ModelRecord(str(SPACE), (32,), ("a", "b"), "digits", quant=QuantMode())
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    return _saved({"state_dict": net.state_dict(), "config": record.to_dict(), "epoch": 1, "step": 2, "best": 3.5,
                   "optimizer": optimizer.state_dict(), "history": [{"epoch": 1}]})


def read_checkpoint(path: Path):
    """Load a checkpoint, its record and its weights."""
    state = load_checkpoint(path, form={"epoch": int})
    if "config" in state:
        ModelRecord.from_dict(state["config"], str(path))
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    load_weights(net, state, path)


def _image(kind: str, mode: str = "RGB") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)).convert(mode).save(file, kind)
    return file.getvalue()


def _zip_of_images() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/0.png", "a/1.png", "b/0.png"):
            archive.writestr(name, _image("PNG"))
    return file.getvalue()


def _tar_of_images() -> bytes:
    file, image = io.BytesIO(), _image("PNG")
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("train/a/0.png", "train/b/0.png"):
            member = tarfile.TarInfo(name)
            member.size = len(image)
            archive.addfile(member, io.BytesIO(image))
    return file.getvalue()


def read_images(open_archive):
    """The reader that opens an archive of images and decodes all of them."""
    def read(path: Path):
        source = open_archive(str(path))
        for index in range(len(source)):
            source.image(index)
    return read


def read_encoded(path: Path):
    """Decode one image."""
    decode(path.read_bytes(), str(path))


def in_folder(name: str, read, *others: tuple[str, bytes]):
    """A reader of a folder in which the damaged file is called `name`; `others` lie beside it."""
    def reader(path: Path):
        folder = path.parent / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / name).parent.mkdir(parents=True)
        for other, content in others:
            (folder / other).write_bytes(content)
        shutil.copy(path, folder / name)
        read(folder)
    return reader


def of_text(parse):
    """A reader of a one-line text, such as an encoding."""
    def reader(path: Path):
        parse(path.read_bytes().decode(errors="replace").replace("\0", ""))
    return reader


def read_subnet(text: str):
    """An encoding of a subnet, checked against its space."""
    subnet = SubnetChoiceConfig.from_str(text)
    SubnetSpace(SPACE, (32,)).check(subnet)


def read_space(text: str):
    """An encoding of a space."""
    assert SupernetConfig.from_str(str(SupernetConfig.from_str(text))) == SupernetConfig.from_str(text)


def read_cache(path: Path):
    """The latency cache, whose file is the damaged one."""
    class Here(LatencyCache):
        def __init__(self):
            super().__init__("test", {"cpu": "x"})
            self.path = path
            self.values = self._read()

        def _say(self, line):
            assert "\n" not in line

    assert all(0 < ms < float("inf") for ms in Here().values.values())


def read_state(path: Path):
    """The state of a run."""
    run = Run(path, resume=True, overwrite=False, option="--output_dir")
    state = run.read_state({"seed": 0})
    with run.reading():
        np.random.default_rng().bit_generator.state = state["rng"]


def read_model_metadata(path: Path):
    """The metadata of a model file, as a JSON object of text."""
    metadata = Metadata(read_json(path, "metadata", {str: str}), path)
    read_classes(metadata), read_normalization(metadata), read_crop_size(metadata)


def record_reader(record):
    """A reader of a record from JSON, with everything that may stand there."""
    def read(path: Path):
        record.from_dict(read_json(path, "record", finite=False), str(path))
    return read


def _plan() -> tuple[bytes, Settings]:
    settings = Settings("onnxruntime", "onnxw_tiny", (32,))
    content = {"settings": dataclasses.asdict(settings), "machine": {"cpu": "x"}, "spread_out": [KEY],
               "representative": [KEY], "correction_nets": [], "test_nets": []}
    return json.dumps(content).encode(), settings


def _json(value) -> bytes:
    return json.dumps(value).encode()


def _tflite() -> bytes:
    from modules.deploy.graph.builder import SyntheticWeights, build_graph
    from modules.deploy.to_tflite.writer import tflite_bytes
    from modules.modeling.spec import BlockArgs, build_block

    block = build_block(BlockArgs("MobileNetV2Res", 4, 4, 3, 1, 1, "relu6"))
    graph = build_graph([("block", block)], SyntheticWeights(int8=False), (4, 4, 4))
    return tflite_bytes(graph, {"classes": '["a"]', "mean": "[0, 0, 0]"})


def _journal() -> bytes:
    rows = [dataclasses.astuple(Row("block", KEY, 1.5, 1.0, 1.5, 3, 0.1, 2.0))] * 2
    header = ",".join(field.name for field in dataclasses.fields(Row))
    return "\n".join([header, *(",".join(map(str, row)) for row in rows), ""]).encode()


def _lut(stage: str = "stage1") -> bytes:
    rows = [TableRow.draw(0, "onnxw_tiny", stage, 0, 0, index, (32,)) for index in range(4)]
    return "\n".join(f"{row.key},{0.1 + i / 10:.4f},0.1,0.1,{1 + i / 7:.4f}" for i, row in enumerate(rows)).encode()


def _archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("stage1_0_0.csv", _lut())
    return file.getvalue()


OTHER_TABLES = [(f"onnxw_tiny/{stage.name}_0_0.csv", _lut(stage.name)) for stage in SPACE.space.searched[1:]]
PROFILE = sorted(SHIPPED.glob("*/platform.json"))[0].parent
CARD = {"model": "m.onnx", "name": None, "supernet": str(SPACE), "subnet": SUBNET, "precision": "int8",
        "input": "normalised", "placement": "lsq", "training": "supernet", "dataset": "digits", "images": 3,
        "accuracy": {"fp32": None, "network": {"top1": 1.0, "low": 0.5, "high": 2.0},
                     "engine": {"top1": 1.0, "low": 0.5, "high": 2.0}},
        "agreement": {"percent": 99.0}, "mmacs": 1.5, "mparams": 0.5, "bytes": 100, "operators": {}, "latency": None,
        "checkpoint": {"file": "lsq.pth", "sha256": "0" * 64}}
STATE = {"identity": {"seed": 0}, "rng": np.random.default_rng(0).bit_generator.state, "entries": [[SUBNET, 1.5, None]]}
METADATA = {"classes": '["a", "b"]', "mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]", "crop_size": "32"}
MODEL_RECORD = ModelRecord(str(SPACE), (32,), ("a", "b"), "digits", quant=QuantMode()).to_dict()
TEACHER_RECORD = TeacherRecord("efficientnet-b0", ("a", "b"), quant=QuantMode()).to_dict()
STUDENT_RECORD = StudentRecord("onnxw_tiny", "stage1", 0, "efficientnet-b0", (32,), quant=QuantMode()).to_dict()
OTHER = {"onnx_lut": {"onnxw_tiny": {"source": "x", "smallest": {"32": 1.5}, "sampled": {"32": [[1.0, 2.0], [0.5]]}}}}
STAGES = {"correction": {"terms": list(TERMS), "coefficients": [1, 0, 0, 0], "deviation": 0.1}}


def _stages(mode):
    return lambda folder: load_other_stages("onnx_lut", "onnxw_tiny", (32,), mode, folder)


READERS = {
    "checkpoint": (_checkpoint, read_checkpoint),
    "model record": (lambda: _json(MODEL_RECORD), record_reader(ModelRecord)),
    "teacher record": (lambda: _json(TEACHER_RECORD), record_reader(TeacherRecord)),
    "student record": (lambda: _json(STUDENT_RECORD), record_reader(StudentRecord)),
    "state of a run": (lambda: _json(STATE), read_state),
    "json": (lambda: _json(CARD), lambda path: read_json(path, "file", (list, dict))),
    "model card": (lambda: _json(CARD), read_card),
    "model metadata": (lambda: _json(METADATA), read_model_metadata),
    "tflite metadata": (_tflite, lambda path: read_metadata(path.read_bytes())),
    "latency cache": (lambda: _json({"identity": {"cpu": "x"}, "ms": {"a": 1.5, "b": 2}}), read_cache),
    "latency table": (lambda: _json({KEY: 1.5, "LogitsBlock_1_128_10_0_0_0_None": 0.5}), read_table),
    "settings of tables": (
        lambda: _json({"settings": {"platform": "onnx_lut", "resolutions": [32]}}),
        in_folder("onnxw_tiny/lut.json", lambda folder: how_made(folder, "onnxw_tiny"), *OTHER_TABLES)),
    "other stages, smallest": (lambda: _json(OTHER), in_folder("onnxw_tiny/other_stages.json", _stages("smallest"))),
    "other stages, sampled": (lambda: _json(OTHER), in_folder("onnxw_tiny/other_stages.json", _stages("sampled"))),
    "block table": (_lut, in_folder("onnxw_tiny/stage1_0_0.csv", lambda folder: load_tables(
        folder, "onnxw_tiny", (32,), [SupernetConfig.from_choice("onnxw_tiny", "000000-000000")]), *OTHER_TABLES)),
    "archive of block tables": (_archive, in_folder("onnxw_tiny/tables.zip", lambda folder: load_tables(
        folder, "onnxw_tiny", (32,), [SupernetConfig.from_choice("onnxw_tiny", "000000-000000")]), *OTHER_TABLES)),
    "points of a block table": (_lut, lambda path: list(_points(path))),
    "csv": (lambda: b'a,b,"c, d"\r\n1,2,3\r\n# x\r\n4,5,"6 ""7"""\r\n', lambda path: list(read_rows(path, "table"))),
    "csv records": (lambda: b"a;b\n1;2\n3;4\n", lambda path: list(read_records(path, "table", ("a",)))),
    "subnets.csv": (lambda: b"enc,acc1,latency\nx,50.5,1.5\ny,60,2\n", read_points),
    "list of subnets": (lambda: f"onnxw_tiny,512202-012000,{SUBNET}\n".encode(), read_subnets),
    "measurements": (_journal, Journal),
    "plan of a profile": (lambda: _plan()[0], lambda path: Plan.load(
        Run(path, resume=True, overwrite=False, option="--output"), _plan()[1], {"cpu": "x"})),
    "platform": (lambda: _json(STAGES), in_folder("platform.json", load_profiled, (
        "model.npz", (PROFILE / "model.npz").read_bytes()))),
    "latency model": ((PROFILE / "model.npz").read_bytes, BlockModel.load),
    "arrays": ((PROFILE / "model.npz").read_bytes, lambda path: read_arrays(path, "arrays")),
    "subnet encoding": (SUBNET.encode, of_text(read_subnet)),
    "space encoding": (lambda: b"onnxw_tiny-512202-012000", of_text(read_space)),
    "zen structure": (lambda: b"SuperConvK3BNRELU(3,8,1,1)SuperResIDWE1K3(8,16,1,8,1)SuperConvK1BNRELU(16,32,1,1)",
                      of_text(Structure.parse)),
    "block key": (KEY.encode, of_text(parse_key)),
    "network of a profile": (lambda: f"{SPACE} {SUBNET}".encode(), of_text(Net.from_str)),
    "training settings": ((REPOSITORY / "supernet_training_configs" / "digits.yaml").read_bytes, load_yaml),
    "published training settings": (
        lambda: b"optimizer: {method: sgd, momentum: 0.8}\nlr_scheduler: {method: warmup_cosine_lr, base_lr: 0.3}\n"
                b"dataset_dir: x\nsandwich_rule: True\ndebug: ''\n", load_yaml),
    "png": (lambda: _image("PNG"), read_encoded), "jpeg": (lambda: _image("JPEG"), read_encoded),
    "gif": (lambda: _image("GIF", "P"), read_encoded), "tiff": (lambda: _image("TIFF"), read_encoded),
    "bmp": (lambda: _image("BMP"), read_encoded), "webp": (lambda: _image("WEBP"), read_encoded),
    "ppm": (lambda: _image("PPM"), read_encoded),
    "zip of images": (_zip_of_images, read_images(open_zip)), "tar of images": (_tar_of_images, read_images(open_tar)),
}
# Readers of archives that check every byte: the contents are damaged too, under right checksums.
INSIDE = {"checkpoint": "data.pkl", "latency model": "meta.npy", "arrays": "coefficients.npy",
          "zip of images": "a/0.png"}
# Readers of JSON objects: whole values are replaced and removed too.
TREES = {"model record": MODEL_RECORD, "teacher record": TEACHER_RECORD, "student record": STUDENT_RECORD,
         "state of a run": STATE, "model card": CARD, "model metadata": METADATA, "other stages, sampled": OTHER,
         "other stages, smallest": OTHER, "platform": STAGES, "plan of a profile": json.loads(_plan()[0])}
