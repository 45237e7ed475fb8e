"""Groups of processes: the environment of launchers, agreement, ends."""
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from processes import free_port

from modules.utils import dist
from modules.utils.errors import NotFinite, UserError
from modules.utils.files import REPOSITORY

GOOD = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}


@pytest.mark.parametrize(("changes", "message"), [
    ({"RANK": "one"}, "RANK is 'one' in the environment; allowed: 0 to 0"),
    ({"RANK": "-1"}, "RANK is '-1'"),
    ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is '2' in the environment; allowed: 0 to 1"),
    ({"RANK": "9" * 5000}, "RANK is '999"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0' in the environment; allowed: whole numbers from 1 on"),
    ({"WORLD_SIZE": "\u00b2"}, "WORLD_SIZE is"),
    ({"MASTER_PORT": "70000"}, "MASTER_PORT is '70000' in the environment; allowed: 1 to 65535"),
    ({"MASTER_PORT": ""}, "MASTER_PORT is ''"),
    ({"MASTER_ADDR": ""}, "MASTER_ADDR is not"),
    ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
])
def test_variables_that_no_launcher_gives(monkeypatch, changes, message):
    for name, value in (GOOD | changes).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        dist.init_distributed()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_convolutions_on_a_gpu_keep_all_bits_of_fp32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.backends.cuda.matmul.allow_tf32 = True  # cannot be patched; the call below leaves torch's default
    dist.init_distributed()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_first_process_tells_the_others_what_became_of_its_work():
    assert dist.on_first(lambda: 5) == 5
    for error in (NotFinite("w"), OSError(28, "No space left on device", "x.pth")):
        def work(error=error):
            raise error

        with pytest.raises(type(error)):
            dist.on_first(work)


def _worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_distributed()
    dist.check_agreed({"epochs": 3, "out": "a"})
    told = []
    for work in (lambda: dist.check_agreed({"epochs": 3, "seed": rank}), lambda: dist.on_first(_no_space)):
        try:
            work()
        except (UserError, OSError) as error:
            told.append(f"{type(error).__name__} {error}")
    (REPOSITORY / folder / str(rank)).write_text("\n".join(told))
    dist.close()
    os._exit(0)  # gloo's threads, if they outlive the group, would abort an interpreter that ends in the usual way


def _no_space():
    raise OSError(28, "No space left on device", "x.pth")


def test_two_processes_agree_or_end_together(tmp_path):
    group = torch.multiprocessing.spawn(_worker, (free_port(), str(tmp_path)), 2, join=False)
    try:
        assert any(group.join(5) for _ in range(24))  # seconds
    finally:
        for process in group.processes:
            process.kill()
    told = [(tmp_path / str(rank)).read_text().splitlines() for rank in range(2)]
    assert told[0] == told[1]
    assert told[0][0].startswith("UserError seed is 0 in process 0 and 1 in process 1; give all processes the same")
    assert told[0][1] == "OSError [Errno 28] No space left on device: 'x.pth'"


CHILD = ("import os, sys, time; sys.path.insert(0, '.'); from modules.utils.processes import end_with_parent; "
         "parent = os.getpid(); child = os.fork()\n"
         "if child == 0: end_with_parent(parent); print(os.getpid(), flush=True)\n"
         "time.sleep(60)")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a service of the Linux kernel")
def test_a_killed_process_takes_its_children_along():
    parent = subprocess.Popen([sys.executable, "-c", CHILD], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 10
    while time.monotonic() < until and _runs(child):
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
