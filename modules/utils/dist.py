"""The process group, and the few collectives in use. Without a launcher they do nothing."""
from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist

from modules.utils.errors import UserError, check_choice, first_line
from modules.utils.processes import end_with_parent

T = TypeVar("T")

# Parameters of glibc's mallopt: freed memory above which the heap shrinks, and the most separate mappings.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

_alone = False


def init_distributed(local_rank: int = -1, kind: str = "") -> torch.device:
    """Join the process group that a launcher describes, if any, and return this process's device.

    NCCL with CUDA, gloo without. A process that torchrun started ends with torchrun, even if torchrun is killed.

    Args:
        local_rank: used if the environment has no LOCAL_RANK.
        kind: cpu or cuda; empty: cuda if there is one.

    Raises:
        UserError: another kind, or cuda without a CUDA device; variables of the environment that no launcher gives;
            processes that do not find each other.
    """
    check_choice(kind, ("", "cpu", "cuda"), "device (--device)")
    compute_in_full_fp32()
    cuda = torch.cuda.is_available()
    if kind == "cuda" and not cuda:
        raise UserError("device 'cuda' (--device), but torch finds no CUDA device; allowed here: cpu")
    cuda = cuda and kind != "cpu"
    local_rank = _number("LOCAL_RANK", 0) if "LOCAL_RANK" in os.environ else max(local_rank, 0)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        _join("nccl" if cuda else "gloo")
    if not cuda:
        keep_freed_memory()
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(f"LOCAL_RANK is {local_rank}, but there are {torch.cuda.device_count()} CUDA devices; start as "
                        "many processes per machine (--nproc_per_node)")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    torch.backends.cudnn.deterministic = True  # a resumed run is to end with the same numbers
    return device


def compute_in_full_fp32() -> None:
    """Switch off TF32, which rounds the operands of a convolution to 10 bits. A code times its scale needs more: int8
    accuracies would not be those of the integers. `--amp bf16` is the fast format of a training."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for later tensors, rather than return it to the system and take it anew page by page:
    at 224 pixels a training step took half as long again. True if that could be set; other C libraries have none."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_TRIM_THRESHOLD, -1) and mallopt(_M_MMAP_MAX, 0))


def _join(backend: str) -> None:
    world = _number("WORLD_SIZE", 1)
    number = _number("RANK", 0, world - 1)
    address = os.environ.get("MASTER_ADDR", "")
    if not address:
        raise UserError("RANK and WORLD_SIZE are set in the environment, but MASTER_ADDR is not; unset them, or start "
                        "with torchrun")
    port = _number("MASTER_PORT", 1, 65535)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(os.getppid())
    try:
        dist.init_process_group(backend, **_store_of_attempt(address, port, number, world))
    except (dist.DistError, ValueError) as error:
        raise UserError(f"process {number} of {world} does not reach the others at {address}:{port} (MASTER_ADDR, "
                        f"MASTER_PORT): {first_line(error)}") from None


def _store_of_attempt(address: str, port: int, number: int, world: int) -> dict:
    """Arguments for `init_process_group`: if torchrun itself hosts the store, only the keys of this attempt.

    torchrun keeps one store over its restarts, unless c10d rendezvous made a new one. It holds addresses of killed
    processes: gloo would take them for new ones and wait without end.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    store = dist.TCPStore(address, port, world, is_master=False)
    attempt = _number("TORCHELASTIC_RESTART_COUNT", 0) if "TORCHELASTIC_RESTART_COUNT" in os.environ else 0
    return {"store": dist.PrefixStore(f"attempt {attempt}", store), "rank": number, "world_size": world}


def _number(name: str, least: int, most: int | None = None) -> int:
    """The environment's variable `name`."""
    text = os.environ.get(name, "")
    allowed = f"{least} to {most}" if most is not None else f"whole numbers from {least} on"
    if not (text.isascii() and text.isdigit() and int(text[:9]) >= least and len(text) < 10
            and (most is None or int(text) <= most)):
        raise UserError(f"{name} is {text[:40]!r} in the environment; allowed: {allowed}; launchers such as torchrun "
                        "set it")
    return int(text)


def _active() -> bool:
    return not _alone and dist.is_available() and dist.is_initialized()


@contextmanager
def alone():
    """Within this context the process takes itself for the only one, and no function here waits for others.

    For work that differs between processes: each then loads all images, and sums are over its own.
    """
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def rank() -> int:
    """This process's number, 0 without a process group."""
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _active() else 1


def barrier() -> None:
    """Wait for all processes, for as long as it takes: one of them may measure latencies."""
    gather_objects(None)


def close() -> None:
    """Leave the process group, all together: a process that leaves early can break off another's last transfer. The
    first one may have worked alone for hours."""
    if _active():
        gather_objects(None)
        _object_group.cache_clear()
        dist.destroy_process_group()


def all_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over processes, in place; returns `tensor`."""
    if _active():
        dist.all_reduce(tensor)
    return tensor


def all_max(tensor: torch.Tensor) -> torch.Tensor:
    """Elementwise maximum over processes, in place; returns `tensor`."""
    if _active():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor


def broadcast_object(value: T) -> T:
    """The first process's `value`, any small picklable object. The others wait without a time limit."""
    if not _active():
        return value
    box = [value]
    dist.broadcast_object_list(box, 0, _object_group())
    return box[0]


def on_first(work: Callable[[], T]) -> T:
    """The first process runs `work()` while the others wait. All get its value. All get its error if that is a
    UserError or an OSError."""
    outcome = None
    if rank() == 0:
        try:
            outcome = work()
        except (UserError, OSError) as error:
            outcome = error
    outcome = broadcast_object(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def gather_objects(value: T) -> list[T]:
    """The `value` of every process, in the order of their numbers."""
    if not _active():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value, _object_group())
    return values


def check_agreed(values: dict) -> None:
    """Raise UserError in every process if one of `values` differs between processes; it names the first such value."""
    first, *others = gather_objects(values)
    for number, theirs in enumerate(others, 1):
        for name, value in first.items():
            if theirs.get(name) != value:
                raise UserError(f"{name} is {value!r} in process 0 and {theirs.get(name)!r} in process {number}; give "
                                "all processes the same command line and data")


@cache
def _object_group():
    # On the CPU with every backend, and without a time limit: one process may prepare work for minutes while others
    # wait.
    return dist.new_group(backend="gloo", timeout=timedelta(days=1))


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over processes, in one reduction.

    Every process must have run the same configurations, so that the same parameters have gradients.
    """
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = all_sum(torch.cat([g.reshape(-1) for g in gradients])) / world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def broadcast_state(model: torch.nn.Module) -> None:
    """Give every process the first one's parameters and buffers."""
    if _active():
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.data, 0)
