"""Several processes: they train as one does, go on as another number of them, and outlive the loss of one."""
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import free_port

from modules.search_space.config import SupernetConfig
from modules.training.config import TrainConfig
from modules.training.trainer import SupernetTrainer
from modules.utils import dist
from modules.utils.checkpoint import load_checkpoint
from modules.utils.files import REPOSITORY

SPACE = SupernetConfig.from_str("onnxw_tiny-000000-000000")
IMAGES = 16  # of a step over all processes


class DoubleTrainer(SupernetTrainer):
    """In float64, where the order of sums over processes tells in the last digits alone; without validation.

    The settings below keep it there: no norm multiplies noise by 300, no sample changes sides in the distillation.
    """

    def prepare(self, images, labels, at):
        images, labels, answers = super().prepare(images, labels, at)
        return images.double(), labels, answers

    def _validate(self):
        return False


class Stopped(Exception):
    """Instead of a kill, which would end the test's process too."""


def _train(rank: int, world: int, port: int, folder: str, stop: tuple[int, int] | None) -> None:
    """Train in `folder` as process `rank` of `world`, before the position `stop`; continues an existing run."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_distributed()
    config = TrainConfig(
        dataset="digits", resolutions=(32,), models_save_dir=folder, augment="default", dropout=0.0, sync_bn=True,
        batch_size_per_gpu=IMAGES // world, epochs=2, warmup_epochs=0, debug_batches=3, num_arch_training=3,
        base_lr=0.1, print_freq=1, checkpoint_minutes=0.0, data_loader_workers_per_gpu=0,
        post_bn_calibration_batch_num=1, bn_eps=0.1, zero_last_gamma=False, inplace_distill=False)
    trainer = DoubleTrainer(config, SPACE, resume=True)
    step = trainer.train_step

    def stopping(batch, steps):
        if stop == (trainer.position.epoch, trainer.position.step):
            raise Stopped
        return step(batch, steps)

    trainer.train_step = stopping
    with contextlib.suppress(Stopped):
        trainer.run()
    dist.close()
    os._exit(0)  # gloo's threads, if they outlive the group, would abort an interpreter that ends in the usual way


def trained(folder: Path, *parts: tuple[int, tuple[int, int] | None]) -> dict[str, torch.Tensor]:
    """The weights after a training whose parts were made by so many processes, each but the last up to a position."""
    for world, stop in parts:
        torch.multiprocessing.spawn(_train, (world, free_port(), str(folder), stop), world)
    state = load_checkpoint(folder / f"{SPACE}-align0" / "checkpoint.pth")
    assert (state["epoch"], state["step"], state["images_per_step"]) == (2, 0, IMAGES)
    return state["state_dict"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The weights of one process."""
    return trained(tmp_path_factory.mktemp("alone"), (1, None))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [((2, None),), ((4, None),), ((1, (1, 1)), (2, None)), ((4, (0, 2)), (1, None))],
                         ids=str)
def test_processes_train_as_one(alone, tmp_path, parts):
    """2 and 4, and a change of their number in the middle of an epoch."""
    weights = trained(tmp_path, *parts)
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float64}
    for name, tensor in alone.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-6, atol=1e-8, msg=name)


# -- launchers ------------------------------------------------------------------------------------------------------

SCRIPT = ["train_supernet.py", "--superspace", "onnxw_tiny", "--supernet_choice", "000000", "--config-file",
          "supernet_training_configs/digits.yaml", "--resolutions", "32", "--batch_size_per_gpu", "8", "--epochs", "2",
          "--debug_batches", "4", "--valid_freq", "2", "--valid_batches", "1", "--post_bn_calibration_batch_num", "1",
          "--checkpoint_minutes", "0", "--print_freq", "1", "--resume"]
ONE_MACHINE = ["--nproc_per_node", "2", "--master_addr", "127.0.0.1"]


def launch(folder: Path, *launcher: str, script: list[str] = SCRIPT) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *launcher, *script, "--models_save_dir",
                             str(folder)], cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-3000:]
    return output


def wait_for(process: subprocess.Popen, words: str) -> None:
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"the run ended before {words!r}")


def processes(words: str) -> list[int]:
    """Numbers of the processes, alive, whose command line holds `words`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
            if alive and words in (folder / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / f"{SPACE}-align0" / "checkpoint.pth")["state_dict"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights of two processes under one launcher."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(launch(folder, *ONE_MACHINE, "--master_port", str(free_port())))
    return weights(folder)


@pytest.mark.slow
def test_a_killed_process_is_replaced(undisturbed, tmp_path):
    """One command line, with --resume: the launcher starts it anew after one of its processes was killed."""
    launcher = launch(tmp_path, *ONE_MACHINE, "--master_port", str(free_port()), "--max-restarts", "1")
    wait_for(launcher, "epoch 1 | step 1/4")
    second = max(set(processes(str(tmp_path))) - {launcher.pid})
    os.kill(second, signal.SIGKILL)
    assert "epoch 1 | step 4/4" in finish(launcher)
    after = weights(tmp_path)
    assert all(torch.equal(tensor, after[name]) for name, tensor in undisturbed.items())
    log = (tmp_path / f"{SPACE}-align0" / "stdout.log").read_text().splitlines()
    steps = [line.split(" | ")[1:3] for line in log if "| step " in line]
    assert steps == [[f"epoch {epoch}", f"step {step}/4"] for epoch in range(2) for step in range(1, 5)]


@pytest.mark.slow
def test_two_launchers(undisturbed, tmp_path):
    """As on two machines, which find each other by themselves."""
    meeting = f"127.0.0.1:{free_port()}"
    launchers = [launch(tmp_path, "--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d",
                        "--rdzv_endpoint", meeting, "--rdzv_id", "two") for _ in range(2)]
    for launcher in launchers:
        finish(launcher)
    after = weights(tmp_path)
    assert all(torch.equal(tensor, after[name]) for name, tensor in undisturbed.items())


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a service of the Linux kernel")
@pytest.mark.parametrize("loaders", ["0", "1"])
def test_nothing_outlives_a_killed_launcher(tmp_path, loaders):
    launcher = launch(tmp_path, *ONE_MACHINE, "--master_port", str(free_port()),
                      script=[*SCRIPT, "--data_loader_workers_per_gpu", loaders, "--epochs", "50"])
    wait_for(launcher, "epoch 1 | step 1/4")
    assert len(processes(str(tmp_path))) >= 3
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    until = time.monotonic() + 20
    while time.monotonic() < until and processes(str(tmp_path)):
        time.sleep(0.1)
    left = processes(str(tmp_path))
    launcher.stdout.close()
    assert not left
