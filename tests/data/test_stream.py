"""Which samples come when, and with what randomness."""

from __future__ import annotations

import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler

from densevit.data import stream as module
from densevit.data.stream import OtherStream, Place, PlacedDataset, Stream, as_stream, seed_process, seed_sample
from densevit.errors import UserError


class Numbers:
    """Samples that say which they are and what the three generators draw."""

    metainfo = {'classes': ('a',)}

    def __init__(self, size: int = 11) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple:
        return index, random.random(), np.random.rand(), torch.rand(()).item()

    def get_data_info(self, index: int) -> dict:
        return {'width': 4 + index % 3, 'height': 5}


def of_rank(monkeypatch, rank: int, world_size: int, *args, **kwargs) -> Stream:
    monkeypatch.setattr(module, 'get_dist_info', lambda: (rank, world_size))
    return Stream(*args, **kwargs)


def loader(sampler=DefaultSampler, size=11, workers=0, seed=None, batch_sampler=None, **more) -> DataLoader:
    data = Numbers(size)
    inner = sampler(data, seed=5)
    batches = dict(batch_sampler=batch_sampler(inner, 3)) if batch_sampler else dict(sampler=inner, batch_size=3)
    return as_stream(DataLoader(data, **batches, num_workers=workers, collate_fn=list, **more), seed)


def taken(loader: DataLoader, iteration: int, num: int, seed: int = 7, epoch: int = 0, skip: int | None = None) -> list:
    loader.batch_sampler.begin(seed, iteration, num, epoch, iteration if skip is None else skip)
    return list(loader)


# ------------------------------------------------------------------------------------------------------ the order
@pytest.mark.parametrize('endless', [False, True])
@pytest.mark.parametrize('world_size', [1, 2, 3])
@pytest.mark.parametrize('size', [12, 13])
def test_processes_share_what_one_process_sees(monkeypatch, endless, world_size, size):
    """Positions too, so the randomness is the same; but for what fills up the end of an epoch."""
    batch = 2
    one = of_rank(monkeypatch, 0, 1, size, batch * world_size, endless=endless)
    several = [of_rank(monkeypatch, rank, world_size, size, batch, endless=endless) for rank in range(world_size)]
    assert all(len(each) == len(one) for each in several)
    for iteration in range(3 * len(one)):
        whole = one.batch(iteration)
        shares = [each.batch(iteration) for each in several]
        assert len({len(share) for share in shares}) == 1
        together = [place for share in shares for place in share]
        assert together[: len(whole)] == whole
        assert len(together) - len(whole) < world_size
    if size % world_size == 0 or endless:
        assert len(together) == len(whole)


def test_processes_share_what_one_accumulates(monkeypatch):
    """One process in two iterations, endlessly: the same places in the same order."""
    one = of_rank(monkeypatch, 0, 1, 11, 3, endless=True)
    two = [of_rank(monkeypatch, rank, 2, 11, 3, endless=True) for rank in range(2)]
    for iteration in range(20):
        assert [two[rank].batch(iteration) for rank in range(2)] == [one.batch(2 * iteration + rank) for rank in (0, 1)]


def test_each_epoch_is_a_permutation_of_its_own():
    batches = list(taken(loader(), 0, 8))
    assert [len(batch) for batch in batches] == [3, 3, 3, 2] * 2
    epochs = [[sample[0] for batch in batches[first : first + 4] for sample in batch] for first in (0, 4)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(11))] * 2
    assert epochs[0] != epochs[1]
    assert epochs[0] != [sample[0] for batch in taken(loader(), 0, 4, seed=8) for sample in batch]


def test_endless_batches_are_of_one_size():
    batches = taken(loader(InfiniteSampler), 0, 22)
    assert {len(batch) for batch in batches} == {3}
    assert set(Counter(sample[0] for batch in batches for sample in batch).values()) == {6}


def test_without_shuffling():
    data = Numbers(5)
    made = as_stream(DataLoader(data, sampler=DefaultSampler(data, shuffle=False), batch_size=2, collate_fn=list))
    assert [[sample[0] for sample in batch] for batch in taken(made, 0, 3)] == [[0, 1], [2, 3], [4]]


def test_positions_do_not_come_twice(monkeypatch):
    for kwargs in (dict(), dict(endless=True), dict(drop_last=True), dict(is_wide=lambda index: index % 3 > 0)):
        streams = [of_rank(monkeypatch, rank, 2, 13, 3, **kwargs) for rank in range(2)]
        positions = [place.position for each in streams for number in range(9) for place in each.batch(number)]
        assert len(set(positions)) == len(positions), kwargs


def test_smaller_batches_are_dropped(monkeypatch):
    assert len(loader(drop_last=True)) == 3
    assert {len(batch) for batch in taken(loader(drop_last=True), 0, 9)} == {3}
    assert len(of_rank(monkeypatch, 1, 2, 11, 3, drop_last=True)) == 1
    with pytest.raises(UserError, match='2 samples are too few for batches of 3'):
        loader(size=2, drop_last=True)


def test_a_seed_of_the_samplers_own_stays():
    own = [taken(loader(seed=3), 0, 4, seed=seed) for seed in (7, 8)]
    assert own[0] == own[1] != taken(loader(), 0, 4, seed=8)


# ---------------------------------------------------------------------------------------- one shape in each batch
def test_batches_of_one_shape(monkeypatch):
    pytest.importorskip('mmdet')
    from mmdet.datasets.samplers import AspectRatioBatchSampler

    made = loader(size=32, batch_sampler=AspectRatioBatchSampler)
    batches = [[sample[0] for sample in batch] for batch in taken(made, 0, len(made))]
    assert sorted(index for batch in batches for index in batch) == list(range(32))
    shapes = [{index % 3 > 0 for index in batch} for batch in batches]
    assert sum(len(shape) > 1 for shape in shapes) <= 1
    assert all(len(shape) == 1 for shape in shapes[:-2])
    assert len(made) == len(loader(size=32))
    # from anywhere, and shared among processes
    assert taken(made, 4, 9) == taken(loader(size=32, batch_sampler=AspectRatioBatchSampler), 0, 13)[4:]
    wide = dict(is_wide=lambda index: index % 3 > 0)
    one = of_rank(monkeypatch, 0, 1, 32, 3, **wide)
    for rank in range(2):
        two = of_rank(monkeypatch, rank, 2, 32, 3, **wide)
        assert len(two) == 6
        for iteration in range(5):
            assert two.batch(iteration) == one.batch(2 * iteration + rank)
        last, first = two.batch(5), one.batch(0)
        assert [place.index for place in last] == [place.index for place in (one.batch(10) if rank == 0 else first)]


# ------------------------------------------------------------------------------------------------- the randomness
@pytest.mark.parametrize('sampler', [DefaultSampler, InfiniteSampler])
def test_a_stream_goes_on_anywhere_with_any_number_of_workers(sampler):
    whole = taken(loader(sampler), 0, 12)
    assert len({sample[1:] for batch in whole for sample in batch}) == sum(map(len, whole))  # never the same twice
    assert taken(loader(sampler), 5, 7) == whole[5:]
    assert taken(loader(sampler, workers=1), 3, 6) == whole[3:9]
    made = loader(sampler, workers=2, persistent_workers=True)
    assert taken(made, 2, 4) == whole[2:6]
    assert taken(made, 6, 2) == whole[6:8]  # the same workers, told to go elsewhere


def test_randomness_is_of_the_seed_and_the_place():
    drawn = []
    for seed, position in ((0, 0), (0, 1), (1, 0), (0, 0)):
        seed_sample(seed, position)
        drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert drawn[0] == drawn[3] and len(set(drawn)) == 3
    seed_process(0, 0)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) not in drawn


# ------------------------------------------------------------------------------------------------ other samplers
class Backwards(Sampler):
    def __init__(self, dataset, seed=None):
        self.size, self.epoch = len(dataset), 0

    def __len__(self):
        return self.size

    def __iter__(self):
        return iter([(index + self.epoch) % self.size for index in reversed(range(self.size))])

    def set_epoch(self, epoch):
        self.epoch = epoch


class Forever(Backwards):
    def __iter__(self):
        while True:
            yield from super().__iter__()


@pytest.mark.parametrize('sampler', [Backwards, Forever])
def test_other_samplers_are_counted(sampler):
    made = loader(sampler)
    assert isinstance(made.batch_sampler, OtherStream)
    whole = taken(made, 0, 10)
    assert [sample[0] for sample in whole[0]] == [10, 9, 8]
    assert [sample[0] for sample in whole[4]] == ([0, 10, 9] if sampler is Backwards else [9, 8, 7])
    assert taken(loader(sampler, workers=2), 6, 4) == whole[6:]
    if sampler is Backwards:  # by the loop's epochs
        assert taken(loader(sampler), 6, 2, epoch=1, skip=2) == whole[6:8]


def test_a_sampler_without_batches():
    class Nothing(Backwards):
        def __iter__(self):
            return iter(())

    with pytest.raises(UserError, match='Nothing gives no batch'):
        taken(loader(Nothing), 0, 1)


def test_what_has_no_indices_is_left_alone():
    class Flow(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    flow = DataLoader(Flow(), batch_size=2)
    assert as_stream(flow) is flow
    made = loader()
    assert as_stream(made) is made
    assert type(loader(batch_sampler=lambda inner, size: BatchSampler(inner, size, False)).batch_sampler) is Stream


# ---------------------------------------------------------------------------------------------------- the dataset
def test_the_dataset_looks_like_itself():
    data = Numbers()
    placed = PlacedDataset(data)
    assert placed.metainfo is data.metainfo and len(placed) == 11
    placed.pipeline = 'another'  # as mmdet's PipelineSwitchHook does
    assert data.pipeline == 'another'
    assert placed[4][0] == 4 and placed[Place(0, 1, 5)][0] == 5
    assert not hasattr(placed, 'absent')
    again = pickle.loads(pickle.dumps(placed))  # to a worker that is not forked
    assert again[Place(0, 1, 5)] == placed[Place(0, 1, 5)]


def test_far_along_a_stream_is_as_near_as_its_beginning(monkeypatch):
    """Nothing before the place is gone through: one permutation, not 320."""
    made = []
    randperm = torch.randperm
    monkeypatch.setattr(torch, 'randperm', lambda *args, **kwargs: made.append(1) or randperm(*args, **kwargs))
    module._order.cache_clear()
    far = Stream(20_000, 64, endless=True)
    far.begin(0, 100_000, 3, 0, 100_000)
    assert [place.position for place in next(iter(far))] == list(range(6_400_000, 6_400_064))
    assert len(made) == 1
