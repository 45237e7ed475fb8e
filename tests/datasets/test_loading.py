"""Batches: their order, their number, and that they depend on seed, epoch and index alone."""

import math
import os
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_trees import collect, numbers_data, numbers_source, one_line, same_batches, show_draw

from modules.datasets.build import load_data
from modules.datasets.loading import eval_batches, train_batches
from modules.datasets.sources import ArraySource
from modules.datasets.transforms import train_transform
from modules.utils.errors import UserError


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 60), world_size=st.integers(1, 5), batch_size=st.integers(1, 17), epoch=st.integers(0, 3))
def test_training_ranks_cover_the_epoch_with_equal_steps(count, world_size, batch_size, epoch):
    data = numbers_data(64, np.arange(64)[::-1][:count])
    ranks = [train_batches(data, show_draw, batch_size=batch_size, seed=1, epoch=epoch, rank=rank,
                           world_size=world_size) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {math.ceil(math.ceil(count / world_size) / batch_size)}
    seen = []
    for batches in ranks:
        found = collect(batches)
        assert len(found) == len(batches)
        seen += [int(value) for images, _ in found for value in images[:, 0]]
        if batch_size > 1:  # batch norm has no variance of a single image whose features are one pixel
            assert min(len(images) for images, _ in found) > 1
    assert set(seen) == set(data.train_indices.tolist())
    per_rank = math.ceil(count / world_size)
    assert len(seen) == world_size * (per_rank + (per_rank % batch_size == 1 and batch_size > 1))
    assert max(seen.count(value) for value in set(seen)) - min(seen.count(value) for value in set(seen)) <= 1


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 60), world_size=st.integers(1, 4), batch_size=st.integers(1, 8))
def test_steps_are_those_of_one_process_with_as_many_images(count, world_size, batch_size):
    """So a run goes on with another number of processes where it stopped."""
    data, steps = numbers_data(64, np.arange(count)), {}
    for ranks in (1, world_size):
        found = [collect(train_batches(data, show_draw, batch_size=batch_size * world_size // ranks, seed=1, epoch=0,
                                       rank=rank, world_size=ranks)) for rank in range(ranks)]
        steps[ranks] = [{int(value) for images, _ in step for value in images[:, 0]} for step in
                        zip(*found, strict=True)]
    assert steps[1][:-1] == steps[world_size][:-1]
    assert len(steps[1]) == len(steps[world_size])


@settings(deadline=None, max_examples=60)
@given(indices=st.lists(st.integers(0, 63), unique=True, max_size=60), world_size=st.integers(1, 5),
       batch_size=st.integers(1, 17))
def test_evaluation_ranks_see_every_image_exactly_once(indices, world_size, batch_size):
    source = numbers_source(64)
    seen = []
    for rank in range(world_size):
        batches = eval_batches(source, indices, show_draw, batch_size=batch_size, rank=rank, world_size=world_size)
        found = collect(batches)
        assert len(found) == len(batches)
        here = [int(value) for images, _ in found for value in images[:, 0]]
        assert here == indices[rank::world_size]
        assert [int(label) for _, labels in found for label in labels] == [value % 7 for value in here]
        seen += here
    assert sorted(seen) == sorted(indices)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_epoch_yields_the_batches_of_the_uninterrupted_one(num_workers):
    data = numbers_data(50)
    arguments = {"batch_size": 6, "seed": 3, "epoch": 2, "rank": 1, "world_size": 2}
    whole = collect(train_batches(data, show_draw, **arguments))
    assert len(whole) == 5
    for start in range(6):
        resumed = train_batches(data, show_draw, start_step=start, num_workers=num_workers, **arguments)
        assert len(resumed) == 5
        assert same_batches(collect(resumed), whole[start:])
    with pytest.raises(UserError) as error:
        train_batches(data, show_draw, start_step=6, **arguments)
    one_line(error, "start step 6", "0 to 5")


def test_augmentation_depends_on_seed_epoch_and_index_alone():
    data = numbers_data(40)

    def draws(**arguments):
        world_size = arguments.get("world_size", 1)
        return {int(number): float(draw) for rank in range(world_size)
                for images, _ in train_batches(data, show_draw, rank=rank, **arguments) for number, draw in images}

    base = draws(batch_size=8, seed=5, epoch=1)
    assert base == draws(batch_size=3, seed=5, epoch=1, world_size=4)
    assert len(set(base.values())) == 40
    for other in (draws(batch_size=8, seed=5, epoch=2), draws(batch_size=8, seed=6, epoch=1)):
        assert not set(base.values()) & set(other.values())


def test_order_changes_with_seed_and_epoch():
    data = numbers_data(40)
    orders = {tuple(torch.cat([images[:, 0] for images, _ in train_batches(data, show_draw, batch_size=40, seed=seed,
                                                                           epoch=epoch)]).tolist())
              for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6
    assert all(sorted(order) == list(range(40)) != list(order) for order in orders)


def test_workers_give_equal_tensors():
    data = load_data("digits")
    transform = train_transform("auto_augment_tf", 16, data.info)
    arguments = {"batch_size": 16, "seed": 0, "epoch": 1, "start_step": 84}
    here, there = (collect(train_batches(data, transform, num_workers=n, **arguments)) for n in (0, 2))
    assert same_batches(here, there)
    images, labels = here[0]
    assert images.shape == (16, 3, 16, 16)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.tolist() == there[0][1].tolist()


def test_drop_last_leaves_whole_batches():
    data = numbers_data(20)
    sizes = [len(labels) for _, labels in train_batches(data, show_draw, batch_size=6, seed=0, epoch=0)]
    assert sizes == [6, 6, 6, 2]
    whole = train_batches(data, show_draw, batch_size=6, seed=0, epoch=0, drop_last=True)
    assert len(whole) == 3
    assert [len(labels) for _, labels in whole] == [6, 6, 6]
    with pytest.raises(UserError) as error:
        train_batches(data, show_draw, batch_size=11, seed=0, epoch=0, world_size=2, drop_last=True)
    one_line(error, "11", "2 to 10")


@pytest.mark.parametrize("count", [127, 128, 130])
def test_drop_last_makes_the_same_steps_with_any_number_of_processes(count):
    data, found = numbers_data(count), []
    for ranks in (1, 2, 4):
        parts = [train_batches(data, show_draw, batch_size=64 // ranks, seed=0, epoch=0, rank=rank, world_size=ranks,
                               drop_last=True) for rank in range(ranks)]
        assert all(len(part) == count // 64 for part in parts)
        found.append([sorted(torch.cat([images[:, 0] for images, _ in step]).tolist())
                      for step in zip(*parts, strict=True)])
    assert found[0] == found[1] == found[2]


def test_loading_leaves_the_global_generators_alone():
    torch.manual_seed(7)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    collect(train_batches(numbers_data(10), show_draw, batch_size=4, seed=0, epoch=0))
    collect(eval_batches(numbers_source(10), range(10), show_draw, batch_size=4))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


class KilledSource(ArraySource):
    """Images of which one takes the process that loads it away."""

    def image(self, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().image(index)


def test_a_killed_loader_is_told_in_one_line():
    source = KilledSource(np.zeros((6, 8, 8, 3), np.uint8), ("a", "b"), np.array([0, 1] * 3))
    with pytest.raises(UserError, match=r"one of the 1 loader processes was killed, .*--num_workers"):
        list(eval_batches(source, np.arange(6), lambda image, rng: torch.zeros(1), batch_size=2, num_workers=1))


@pytest.mark.parametrize(("words", "told"), [
    ("DataLoader worker (pid 1) is killed by signal: Killed. ", "one of the 2 loader processes was killed, .*memory"),
    ("DataLoader worker (pid(s) 1, 2) exited unexpectedly", "one of the 2 loader processes was killed, .*memory"),
    ("DataLoader worker (pid 1) is killed by signal: Bus error. It is possible that ...", "2 loader processes have too "
     r"little shared memory: /dev/shm has \d+ KiB; .*--num_workers 0"),
    ("unable to write to file </torch_1>: No space left on device (28)", "2 loader processes have too little shared"),
    ("mat1 and mat2 shapes cannot be multiplied", None)])
def test_how_loaders_fail_is_told_in_one_line(monkeypatch, words, told):
    class Failing:
        def __init__(self, *_, **__):
            pass

        def __iter__(self):
            raise RuntimeError(words)

    monkeypatch.setattr(torch.utils.data, "DataLoader", Failing)
    source = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), ("a", "b"), np.array([0, 1] * 2))
    batches = eval_batches(source, np.arange(4), lambda image, rng: torch.zeros(1), batch_size=2, num_workers=2)
    with pytest.raises(UserError if told else RuntimeError, match=told or words) as error:
        list(batches)
    assert "\n" not in str(error.value)
