"""One process or many: the process group and the few collectives in use. Without a launcher all are no-ops."""
from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist

from modules.utils.errors import UserError, check_choice

_alone = False


def init_distributed(local_rank: int = -1, kind: str = "") -> torch.device:
    """Join the process group that a launcher describes, if any, and return this process's device.

    NCCL with CUDA, gloo without. `local_rank` is only used where the environment has no LOCAL_RANK. `kind` is cpu or
    cuda; empty: cuda if there is one. UserError for another kind, or cuda where there is none.
    """
    check_choice(kind, ("", "cpu", "cuda"), "device (--device)")
    cuda = torch.cuda.is_available()
    if kind == "cuda" and not cuda:
        raise UserError("device 'cuda' (--device), but torch finds no CUDA device; allowed here: cpu")
    cuda = cuda and kind != "cpu"
    local_rank = int(os.environ.get("LOCAL_RANK", local_rank))
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    if not cuda:
        return torch.device("cpu")
    device = torch.device("cuda", max(local_rank, 0))
    torch.cuda.set_device(device)
    return device


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
    """Wait for all processes."""
    if _active():
        dist.barrier()


def close() -> None:
    """Leave the process group, all together: one that leaves early can break off another's last transfer."""
    if _active():
        barrier()
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


def broadcast_object(value):
    """The first process's `value`, any small picklable object. The others may wait for it as long as it takes."""
    if not _active():
        return value
    box = [value]
    dist.broadcast_object_list(box, 0, _object_group())
    return box[0]


def gather_objects(value) -> list:
    """The `value` of every process, in the order of their numbers."""
    if not _active():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value, _object_group())
    return values


@cache
def _object_group():
    # Through the CPU whatever the backend, and patient: one process may prepare work for minutes while others wait.
    return dist.new_group(backend="gloo", timeout=timedelta(days=1))


def average_gradients(parameters) -> None:
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
