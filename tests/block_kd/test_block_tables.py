"""Building block tables: rows, their losses against a plain evaluation, sharing of the teacher, continuing."""
import copy
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from processes import free_port, kill_when, run_script
from test_block_kd import ARCH, CountingTeacher, images, make_config, teachers  # noqa: F401 - fixtures

from modules.block_kd.lut.builder import FILES, LutBuilder
from modules.block_kd.lut.counts import count_stage
from modules.block_kd.lut.job import make_job
from modules.block_kd.lut.options import TableOptions
from modules.block_kd.lut.report import draw_tables
from modules.block_kd.lut.rows import TableRow, check_drawn
from modules.block_kd.lut.tables import how_made, load_tables, read_settings
from modules.block_kd.student.files import read_student
from modules.block_kd.student.training import BlockTrainer
from modules.block_kd.teacher import load_teacher
from modules.datasets.loading import eval_batches, train_batches
from modules.datasets.transforms import eval_transform, train_transform
from modules.latency import platform as latency_platform
from modules.modeling.network import resize
from modules.search_space.config import SupernetConfig
from modules.search_space.superspace import get_superspace
from modules.training.calibration import calibrate_bn
from modules.utils.checkpoint import load_checkpoint, save_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.runs import Run

NAMES = ("stage2_1", "stage2_4")


class Priced:
    """A platform on which a block costs its output width in microseconds, plus 1 ms per pixel of height."""

    def predict_block(self, block, hw):
        return block.cout / 1000 + hw[0]


@pytest.fixture(scope="module")
def students(teachers, images, tmp_path_factory):  # noqa: F811
    """The folder of two int8 students."""
    folder = tmp_path_factory.mktemp("students")
    config = make_config(folder / "onnxw_tiny", stage_list=NAMES, dataset="", dataset_path=str(images), valid_size=12,
                         train_batch_size=9)
    BlockTrainer(config, load_teacher(ARCH, teachers[False])).run()
    BlockTrainer(config, load_teacher(ARCH, teachers[True], quant=True), int8=True).run()
    return folder


@pytest.fixture
def job(teachers, students, monkeypatch):  # noqa: F811
    """A function from changed options to (builder arguments, teacher)."""
    monkeypatch.setitem(latency_platform._platforms._values, "priced", Priced)
    teacher = CountingTeacher(load_teacher(ARCH, teachers[True], quant=True))

    def make(folder, **changes):
        resume, overwrite = changes.pop("resume", True), changes.pop("overwrite", False)
        rows_per_pass = changes.pop("rows_per_pass", 100)
        options = TableOptions(**{
            "superspace": "onnxw_tiny", "platform": "priced", "checkpoint_path": str(students), "dataset": "",
            "dataset_path": "", "valid_size": 0, "augment": "default", "train_batch_size": 6, "num_calib_batches": 2,
            "eval_batch_size": 5, "num_workers": 0, "stage_list": NAMES, "width_window_filter": (0, 2),
            "num_samples_per_stage": 3, "rows_per_pass": rows_per_pass, "hw_list": (), "loss_fn": "nsr",
            "manual_seed": 0, "debug": False, "debug_batches": 1, "fp32_mode": False, **changes})
        with Run(folder / "lut.json", files=FILES, resume=resume, overwrite=overwrite,
                 option="--output_path") as opened:
            return LutBuilder(make_job(options, teacher, torch.device("cpu")), opened, teacher)
    return make


def read(folder):
    return {path.name: path.read_text() for path in folder.glob("*.csv")}


def test_losses_are_those_of_a_plain_evaluation(job, students, teachers, tmp_path):  # noqa: F811
    builder = job(tmp_path)
    builder.run()
    teacher = load_teacher(ARCH, teachers[True], quant=True)
    data, size = builder.job.data, 64
    calibration = [x for (x, _), _ in zip(
        train_batches(data, train_transform("default", size, data.info), batch_size=6, seed=0, epoch=0), range(2),
        strict=False)]
    validation = list(eval_batches(data.valid, data.valid_indices, eval_transform(size, data.info), batch_size=12))
    assert set(read(tmp_path)) == {f"{name}_{window}.csv" for name in NAMES for window in (0, 2)}
    for block in (1, 4):
        original = read_student(students / "onnxw_tiny" / f"stage2_{block}" / "lsq.pth", "onnxw_tiny", "stage2", block,
                                teacher, True)[0]
        for window in (0, 2):
            lines = (tmp_path / f"stage2_{block}_{window}.csv").read_text().splitlines()
            assert len(lines) == 3
            for index, line in enumerate(lines):
                row = TableRow.draw(0, "onnxw_tiny", "stage2", block, window, index, (48, 64))
                student = copy.deepcopy(original).eval()
                student.set_active(row.choice)
                with torch.no_grad():
                    calibrate_bn(student, [teacher.forward_to_stage(resize(x, row.resolution), "stage2")[1]
                                           for x in calibration])
                    (images, _), = validation
                    target, x = teacher.forward_to_stage(resize(images, row.resolution), "stage2")
                    output = student(x).double().numpy()
                target = target.double().numpy()
                loss = (((output - target) ** 2).mean((2, 3)) / (target.var((2, 3), ddof=1) + 1e-8)).mean()
                encoding, shape, *numbers = line.split(",")
                assert float(numbers[0]) == pytest.approx(loss, rel=2e-3)
                cin, height = int(shape.split("x")[1]), int(shape.split("x")[2])
                macs, params = count_stage("onnxw_tiny", "stage2", block, encoding, (1, cin, height, height))
                assert [float(n) for n in numbers[1:3]] == [round(macs, 4), round(params, 4)]
                widths = [int(b.split("#")[1]) for b in encoding.split("_")]
                ms = sum(widths) / 1000 + height + (len(widths) - 1) * -(-height // 2)
                assert float(numbers[3]) == pytest.approx(ms, abs=1e-4)


def test_the_teacher_runs_once_per_batch_and_resolution(job, tmp_path):
    whole = job(tmp_path / "whole")
    whole.run()
    calls = whole.teacher.calls
    # 12 rows of one stage: 2 calibration batches and 12 images in batches of 5, at 48 and 64 pixels
    assert len(calls) == 2 * (2 + 3)
    assert {shape[-1] for shape in calls} == {48, 64}
    calls.clear()
    job(tmp_path / "passes", rows_per_pass=5).run()
    assert len(calls) <= 3 * 2 * (2 + 3)
    assert read(tmp_path / "passes") == read(tmp_path / "whole")


def test_tables_are_continued_and_more_rows_leave_the_first_as_they_are(job, tmp_path):
    job(tmp_path / "whole", num_samples_per_stage=5).run()
    job(tmp_path / "grown", num_samples_per_stage=2, stage_list=["stage2_4"]).run()
    grown = read(tmp_path / "grown")
    assert set(grown) == {"stage2_4_0.csv", "stage2_4_2.csv"}
    job(tmp_path / "grown", num_samples_per_stage=5).run()
    whole = read(tmp_path / "whole")
    assert read(tmp_path / "grown") == whole
    assert all(whole[name].startswith(text) for name, text in grown.items())
    calls = job(tmp_path / "grown").teacher.calls
    calls.clear()
    job(tmp_path / "grown", num_samples_per_stage=5).run()
    assert not calls


@pytest.mark.parametrize(("changes", "words"), [
    ({"manual_seed": 1}, ["seed was 0", "is 1"]),
    ({"debug": True}, ["eval_batches was 0", "is 1"]),
    ({"hw_list": [64]}, ["resolutions was [48, 64]", "[64]"]),
    ({"hw_list": [96]}, ["96", "trained at 48, 64"]),
    ({"valid_size": 13}, ["--valid_size 13", "held out 12"]),
    ({"stage_list": ["stage2_9"]}, ["stage2_9", "--stage_list"]),
    ({"stage_list": ["stage3_0"]}, ["stage3_0", "does not exist", "`lsq_block_kd.py`"]),
    ({"width_window_filter": [5]}, ["5", "--width_window_filter"]),
    ({"platform": "abacus"}, ["abacus", "onnxruntime_int8"]),
    ({"num_samples_per_stage": 0}, ["--num_samples_per_stage 0"]),
    ({"loss_fn": "l1"}, ["l1", "nsr"]),
])
def test_what_cannot_work_is_refused_and_the_tables_stay(job, tmp_path, changes, words):
    job(tmp_path, num_samples_per_stage=1, stage_list=["stage2_1"]).run()
    before = read(tmp_path)
    with pytest.raises(UserError) as error:
        job(tmp_path, **changes).run()
    assert all(word in str(error.value) for word in words), error.value
    assert read(tmp_path) == before


def test_students_of_two_placements_are_not_mixed(job, students, teachers, images, tmp_path):  # noqa: F811
    shutil.copytree(students, tmp_path / "mixed")
    config = make_config(tmp_path / "mixed" / "onnxw_tiny", stage_list=NAMES[1:], dataset="", dataset_path=str(images),
                         valid_size=12, train_batch_size=9, placement="engine")
    BlockTrainer(config, load_teacher(ARCH, teachers[True], quant=True), int8=True, overwrite=True).run()
    with pytest.raises(UserError, match=r"stage2_4 .*--placement engine; allowed beside stage2_1: lsq"):
        job(tmp_path / "tables", checkpoint_path=str(tmp_path / "mixed"))
    builder = job(tmp_path / "tables", checkpoint_path=str(tmp_path / "mixed"), stage_list=NAMES[1:],
                  num_samples_per_stage=1)
    builder.run()
    assert json.loads((tmp_path / "tables" / "lut.json").read_text())["settings"]["placement"] == "engine"
    with pytest.raises(UserError, match=r"placement was 'engine' .* 'lsq' now"):
        job(tmp_path / "tables", stage_list=NAMES[1:], num_samples_per_stage=1).run()


def test_a_table_of_other_rows_is_refused(job, tmp_path):
    job(tmp_path, num_samples_per_stage=1).run()
    path = tmp_path / "stage2_1_0.csv"
    path.write_text("3#24#9,1x16x12x12,0.1,0.1,0.1,0.1\n")
    with pytest.raises(UserError, match=r"stage2_1_0.csv, line 1: .*3#24#9.* not the row that seed 0 draws"):
        job(tmp_path).run()


def test_a_table_that_an_editor_saved_is_continued_whole_or_refused(job, tmp_path):
    options = {"stage_list": ["stage2_1"], "width_window_filter": [0]}
    job(tmp_path, num_samples_per_stage=3, **options).run()
    path = tmp_path / "stage2_1_0.csv"
    whole = path.read_text()
    lines = whole.splitlines()
    path.write_text("\r\n".join(lines[:2]), newline="")
    job(tmp_path, num_samples_per_stage=3, **options).run()
    assert path.read_text() == whole
    for cut in (lines[1][:-2], lines[1].rpartition(",")[0], lines[1] + ",1.0000"):
        path.write_text(f"{lines[0]}\n{cut}")
        with pytest.raises(UserError, match=r"stage2_1_0.csv, line 2: .* is no whole row; expected four numbers"):
            job(tmp_path, num_samples_per_stage=3, **options).run()


def test_tables_are_there_continued_refused_or_begun_anew(job, tmp_path):
    job(tmp_path, num_samples_per_stage=2).run()
    before = read(tmp_path)
    with pytest.raises(UserError, match=r"lut\.json' exists; continue it with --resume"):
        job(tmp_path, resume=False)
    with pytest.raises(UserError, match="--valid_size 13"):
        job(tmp_path, resume=False, overwrite=True, valid_size=13)
    assert read(tmp_path) == before
    job(tmp_path, resume=False, overwrite=True, num_samples_per_stage=1, manual_seed=1, stage_list=["stage2_4"]).run()
    assert set(read(tmp_path)) == {"stage2_4_0.csv", "stage2_4_2.csv"}
    (tmp_path / "lut.json").write_text("{")
    with pytest.raises(UserError, match=r"lut\.json"):
        job(tmp_path).run()
    (tmp_path / "lut.json").unlink()
    with pytest.raises(UserError, match=r"tables without lut\.json"):
        job(tmp_path, resume=False, overwrite=True).run()


def test_a_second_builder_of_a_folder_is_refused(job, tmp_path):
    with (Run(tmp_path / "lut.json", resume=False, overwrite=False, option="--output_path"),
          pytest.raises(UserError, match=f"is in use by process {os.getpid()} on ")):
        job(tmp_path)


def test_rows_that_a_seed_does_not_draw_twice_are_refused():
    """As two builders left them: some twice, others missing. Rows that are drawn twice are no fault."""
    table, resolutions = ("onnxw_tiny", "stage6", 2, 0), [48, 64]
    keys = [TableRow.draw(0, *table, index, tuple(resolutions)).key for index in range(20)]
    assert len(set(keys)) < len(keys)
    check_drawn("x.csv", keys, 0, table, resolutions)
    for bad, line in (([*keys[:5], *keys[:5], *keys[10:]], 6), (keys[:3] + keys[4:], 13)):
        with pytest.raises(UserError, match=rf"x.csv, line {line}: .* build the table again"):
            check_drawn("x.csv", bad, 0, table, resolutions)


def test_rows_are_uniform_and_stay_inside_their_window():
    rows = [TableRow.draw(3, "onnxw", "stage4", 2, 1, index, (160, 192, 224)) for index in range(900)]
    table, previous = get_superspace("onnxw").stage("stage4"), get_superspace("onnxw").stage("stage3")
    for values, options in (([b.width for r in rows for b in r.choice.blocks], table.widths[1:4]),
                            ([r.choice.cin for r in rows], previous.widths),
                            ([len(r.choice.blocks) for r in rows], table.depths),
                            ([r.resolution for r in rows], (160, 192, 224)),
                            ([b.kernel for r in rows for b in r.choice.blocks], (3, 5)),
                            ([b.expand for r in rows for b in r.choice.blocks], (4, 6, 8))):
        counts = np.array([values.count(option) for option in options])
        assert counts.sum() == len(values)
        expected = len(values) / len(options)
        assert ((counts - expected) ** 2 / expected).sum() < 30  # chi squared, at most 5 degrees of freedom
    assert len({r.key for r in rows}) > 800
    assert rows[7] == TableRow.draw(3, "onnxw", "stage4", 2, 1, 7, (160, 192, 224))


def test_a_table_has_losses_of_one_teacher_and_one_student_of_each_block(job, students, teachers, tmp_path):  # noqa: F811
    """Students that were trained anew do not continue it; further blocks do, and add their digests."""
    first, copied = {"stage_list": NAMES[:1]}, tmp_path / "students"
    shutil.copytree(students, copied)
    job(tmp_path / "t", **first).run()
    path, settings = copied / "onnxw_tiny" / NAMES[0] / "lsq.pth", tmp_path / "t" / "lut.json"
    job(tmp_path / "t", checkpoint_path=str(copied)).run()
    weights = json.loads(settings.read_text())["settings"]["weights"]
    assert set(weights) == {"teacher", *NAMES}
    checkpoint = load_checkpoint(path)
    next(tensor for name, tensor in checkpoint["model"].items() if name.endswith("conv.weight")).mul_(1.01)
    save_checkpoint(path, checkpoint)
    with pytest.raises(UserError, match=rf"weights.{NAMES[0]} was '[0-9a-f]+' when .* a continued run keeps"):
        job(tmp_path / "t", num_samples_per_stage=4, checkpoint_path=str(copied)).run()
    checkpoint["config"]["teacher_digest"] = "0" * 64
    save_checkpoint(path, checkpoint)
    with pytest.raises(UserError, match=rf"student {NAMES[0]} was distilled from other weights of {ARCH}"):
        job(tmp_path / "u", checkpoint_path=str(copied))


def test_folders_without_tables_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere': it holds no folder onnxw_tiny"):
        how_made(tmp_path / "nowhere", "onnxw_tiny", "onnx_lut")
    (tmp_path / "onnxw_tiny").mkdir()
    with pytest.raises(UserError, match="which is the folder of one superspace: it holds no folder onnxw_tiny"):
        how_made(tmp_path / "onnxw_tiny", "onnxw_tiny")
    with pytest.raises(UserError, match=r"holds no block tables; eval_block_kd\.py writes them"):
        how_made(tmp_path, "onnxw_tiny")
    (tmp_path / "onnxw_tiny" / "stage1_0_0.csv").touch()
    with pytest.raises(UserError, match="--platform is needed"):
        how_made(tmp_path, "onnxw_tiny")
    assert how_made(tmp_path, "onnxw_tiny", otherwise="onnx_lut") == ("onnx_lut", (48, 64))


@pytest.mark.parametrize("bad", [{"seed": -1}, {"resolutions": []}, {"resolutions": [0]}])
def test_settings_out_of_range_are_refused(tmp_path, bad):
    (tmp_path / "lut.json").write_text(json.dumps({"settings": {"seed": 0, "resolutions": [32], **bad}}))
    with pytest.raises(UserError, match=r"lut\.json': seed .* expected a seed from 0 up and resolutions from"):
        read_settings(tmp_path / "lut.json")


def test_a_killed_build_continues_to_the_same_tables(students, teachers, tmp_path):  # noqa: F811
    command = ["eval_block_kd.py", "--superspace", "onnxw_tiny", "--platform", "onnxruntime_int8",
               "--teacher_arch", ARCH, "--teacher_checkpoint_path", str(teachers[True]), "--checkpoint_path",
               str(students), "--num_samples_per_stage", "6", "--num_workers", "0", "--stage_list", "stage2_4",
               "--rows_per_pass", "2", "--train_batch_size", "4", "--num_calib_batches", "1"]
    process = subprocess.Popen([sys.executable, *command, "--output_path", str(tmp_path / "killed")], cwd=REPOSITORY,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = tmp_path / "killed" / "onnxw_tiny" / "stage2_4_0.csv"
    kill_when(process, first.is_file)
    rows = sum(text.count("\n") for text in read(tmp_path / "killed" / "onnxw_tiny").values())
    assert 0 < rows < 18
    for run in ("killed", "whole"):
        done = run_script(*command, "--resume", "--output_path", tmp_path / run)
        assert done.returncode == 0, done.stderr
        assert f"stage2: {18 - rows if run == 'killed' else 18} of" in done.stdout
    killed, whole = (read(tmp_path / run / "onnxw_tiny") for run in ("killed", "whole"))
    assert killed == whole
    assert (tmp_path / "whole" / "onnxw_tiny" / "lut_report.png").read_bytes()[:4] == b"\x89PNG"


def test_tables_built_are_tables_the_search_reads(job, tmp_path):
    folder = tmp_path / "onnxw_tiny"
    job(folder, num_samples_per_stage=8, width_window_filter=[0]).run()
    platform, resolutions = how_made(tmp_path, "onnxw_tiny")
    assert (platform, resolutions) == ("priced", (48, 64))
    with pytest.raises(UserError, match="of priced"):
        how_made(tmp_path, "onnxw_tiny", "onnx_lut")
    for stage in ("stage1", "stage3", "stage4", "stage5", "stage6"):  # the search wants tables of all stages
        rows = [TableRow.draw(0, "onnxw_tiny", stage, 4, 0, i, (48, 64)) for i in range(8)]
        (folder / f"{stage}_4_0.csv").write_text("".join(f"{r.line(0.5, Priced())}\n" for r in rows))
    tables = load_tables(tmp_path, "onnxw_tiny", (48, 64), [SupernetConfig.from_str("onnxw_tiny-444444-000000")])
    losses = np.sort([float(line.split(",")[2]) for line in (folder / "stage2_4_0.csv").read_text().splitlines()])
    found = np.sort(np.concatenate([rows.loss for rows in tables.stages[1][4, 0]]))
    np.testing.assert_array_equal(found, losses)
    settings = json.loads((folder / "lut.json").read_text())["settings"]
    assert settings["platform"] == "priced"
    assert draw_tables(folder, "onnxw_tiny", "priced").is_file()


@pytest.mark.slow
def test_two_processes_build_the_tables_of_one(teachers, images, tmp_path):  # noqa: F811
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    common = ["--superspace", "onnxw_tiny", "--teacher_arch", ARCH, "--num_workers", "0", "--stage_list", "stage2_4"]
    train = ["--dataset_path", str(images), "--valid_size", "8", "--hw_list", "48", "64", "--train_batch_size", "8",
             "--debug", "--output_path", str(tmp_path / "onnxw_tiny")]
    tables = ["--checkpoint_path", str(tmp_path), "--platform", "onnxruntime_int8", "--num_samples_per_stage", "5",
              "--train_batch_size", "8", "--num_calib_batches", "1", "--rows_per_pass", "4"]
    fp32, int8 = (["--teacher_checkpoint_path", str(teachers[kind])] for kind in (False, True))
    for command in ([*launcher, "train_block_kd.py", *common, *train, *fp32],
                    [*launcher, "lsq_block_kd.py", *common, *train, *int8],
                    ["eval_block_kd.py", *common, *tables, *int8, "--output_path", str(tmp_path / "one")],
                    [*launcher, "eval_block_kd.py", *common, *tables, *int8, "--output_path", str(tmp_path / "two")]):
        done = run_script(*command)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (read(tmp_path / name / "onnxw_tiny") for name in ("one", "two"))
    assert len(one) == 3
    assert one == two
