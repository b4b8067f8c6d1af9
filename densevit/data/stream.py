"""The training stream: which samples a process trains on at an iteration, and with what randomness.

Both are functions, of the seed and the place in the stream. So a run can begin at any iteration, with any number of
workers, and a checkpoint has to hold nothing of data loaders, whose workers load ahead, or of random generators.

A place's position counts through the iterations, within an iteration through the processes, and within a process
through its batch. At every iteration two processes with batches of b see the samples and the randomness that one sees
with batches of 2b, or in two iterations with batches of b.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler

from ..errors import UserError

__all__ = ['OtherStream', 'Place', 'PlacedDataset', 'Stream', 'as_stream', 'seed_process', 'seed_sample']

# What random numbers are for: equal numbers of one kind and another must not lead to equal randomness.
_ORDER, _SAMPLE, _PROCESS = range(3)
# Of a data loader, what has nothing to do with the order of samples.
_KEPT = (
    'num_workers', 'collate_fn', 'pin_memory', 'timeout', 'worker_init_fn', 'multiprocessing_context', 'generator',
    'prefetch_factor', 'persistent_workers',
)  # fmt: skip


class Place(NamedTuple):
    """All that a training sample is a function of, beside the dataset."""

    seed: int
    position: int  # in the stream
    index: int  # in the dataset


def seed_sample(seed: int, position: int) -> None:
    """Seed Python, numpy and torch for the sample at a position; GPUs are left alone, samples are made on CPUs."""
    python, numpy, cpu = _words(seed, _SAMPLE, position)
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(cpu)


def seed_process(seed: int, step: int) -> None:
    """Seed Python, numpy and torch, GPUs too, for what a process does with a batch.

    Args:
        seed: of the run.
        step: ``iteration * processes + rank``, so that two processes draw what one draws in two iterations.
    """
    python, numpy, every = _words(seed, _PROCESS, step)
    random.seed(python)
    np.random.seed(numpy)
    torch.manual_seed(every)


def _words(seed: int, kind: int, number: int) -> list[int]:
    return np.random.SeedSequence([seed, kind, number]).generate_state(3).tolist()


@lru_cache(maxsize=2)  # a batch may reach from one epoch into the next
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(_words(seed, _ORDER, epoch)[0])
    return torch.randperm(size, generator=generator).numpy()


class PlacedDataset(Dataset):
    """A dataset that is asked for places, and seeds before it makes the sample there.

    Attributes, read or set, are the dataset's: hooks ask for the classes, or exchange the pipeline.
    """

    def __init__(self, dataset: Any) -> None:
        self.__dict__['_dataset'] = dataset

    def __getitem__(self, place: Place | int) -> Any:
        if not isinstance(place, Place):
            return self._dataset[place]
        seed_sample(place.seed, place.position)
        return self._dataset[place.index]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getattr__(self, name: str) -> Any:
        # pickle and copy look for special methods before there is a dataset; those of the inner one are not for this
        if name.startswith('__') or name == '_dataset':
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)


class _Batches(Sampler):
    """Batches of places, from an iteration on: what a data loader takes as its ``batch_sampler``."""

    def __init__(self, batch_size: int, seed: int | None) -> None:
        self.batch_size = batch_size
        self.rank, self.world_size = get_dist_info()
        self.seed = seed or 0
        self._own_seed = seed
        self.iteration, self.num, self.epoch, self.skip = 0, None, 0, 0

    def begin(self, seed: int, iteration: int, num: int, epoch: int, skip: int) -> None:
        """Say what the next pass through the data loader gives.

        Args:
            seed: of the run; a sampler that was configured with one of its own keeps that.
            iteration: the first, counted from 0.
            num: how many iterations.
            epoch: of the loop, 0 where it has none.
            skip: iterations of that epoch before the first.
        """
        self.seed = seed if self._own_seed is None else self._own_seed
        self.iteration, self.num, self.epoch, self.skip = iteration, num, epoch, skip

    def position(self, iteration: int, slot: int) -> int:
        """Of the first process's sample ``slot``; those of the others follow."""
        return iteration * self.world_size * self.batch_size + slot


class Stream(_Batches):
    """What mmengine's ``DefaultSampler`` and ``InfiniteSampler`` and mmdet's ``AspectRatioBatchSampler`` give.

    The order is another than theirs for the same seed. Each epoch has its own permutation, and is cut into
    global batches. The rest at its end is shared equally, so all processes have equally many samples; where it does
    not divide, samples of the epoch's beginning fill it up.

    Args:
        size: number of samples in the dataset.
        batch_size: samples per iteration and process.
        shuffle: permute.
        endless: batches go on from one epoch into the next, so none is smaller.
        drop_last: leave a smaller batch at the end of an epoch out.
        seed: of the order and the samples, None: the run's.
        is_wide: whether a sample's image is at least as wide as high, asked by index; then no batch mixes the two but
            for the last ones of an epoch. A process takes every n-th of these batches.

    Raises:
        UserError: there are too few samples for a batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        shuffle: bool = True,
        endless: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
        is_wide: Callable[[int], bool] | None = None,
    ) -> None:
        super().__init__(batch_size, seed)
        self.size, self.shuffle, self.endless, self.drop_last = size, shuffle, endless, drop_last
        self.sampler = self  # hooks look for one with an epoch to set
        self._is_wide = is_wide
        self._wide: dict[int, bool] = {}
        self._groups: tuple[tuple[int, int], list[list[int]], Iterator[list[int]]] = ((-1, -1), [], iter(()))
        num_batches = -(-size // batch_size) if not drop_last else size // batch_size
        whole = self.world_size if is_wide else self.world_size * batch_size
        total = num_batches if is_wide else size
        self._len = total // whole if drop_last and not endless else -(-total // whole)
        self._num_batches = num_batches
        if self._len < 1:
            raise UserError(
                f'train_dataloader: {size} samples are too few for batches of {batch_size} in {self.world_size} '
                'process(es); use a smaller batch_size, or drop_last=False.'
            )

    def __len__(self) -> int:
        """Iterations per epoch."""
        return self._len

    def __iter__(self) -> Iterator[list[Place]]:
        num = len(self) - self.skip if self.num is None else self.num
        return map(self.batch, range(self.iteration, self.iteration + num))

    def batch(self, iteration: int) -> list[Place]:
        """This process's places at an iteration."""
        epoch, row = divmod(iteration, len(self))
        share = self.batch_size
        if self._is_wide:
            indices = self._of_one_shape(epoch, (row * self.world_size + self.rank) % self._num_batches)
        elif self.endless:
            first = self.position(iteration, self.rank * share)
            indices = [self._index(*divmod(first + slot, self.size)) for slot in range(share)]
        else:
            first = row * self.world_size * share
            share = min(share, -(-(self.size - first) // self.world_size))
            first += self.rank * share
            indices = [self._index(epoch, (first + slot) % self.size) for slot in range(share)]
        first = self.position(iteration, self.rank * share)
        return [Place(self.seed, first + slot, index) for slot, index in enumerate(indices)]

    def _index(self, epoch: int, number: int) -> int:
        return int(_order(self.seed, epoch, self.size)[number]) if self.shuffle else number

    def _of_one_shape(self, epoch: int, number: int) -> list[int]:
        """An epoch's batch ``number`` of all processes together; grouped as far as needed, and once."""
        if self._groups[0] != (self.seed, epoch):
            self._groups = (self.seed, epoch), [], self._group(epoch)
        _, batches, source = self._groups
        while len(batches) <= number:
            batches.append(next(source))
        return batches[number]

    def _group(self, epoch: int) -> Iterator[list[int]]:
        buckets: tuple[list[int], list[int]] = ([], [])
        for number in range(self.size):
            index = self._index(epoch, number)
            if index not in self._wide:
                self._wide[index] = self._is_wide(index)
            bucket = buckets[self._wide[index]]
            bucket.append(index)
            if len(bucket) == self.batch_size:
                yield bucket[:]
                bucket.clear()
        rest = [*buckets[0], *buckets[1]]
        for first in range(0, len(rest), self.batch_size):
            yield rest[first : first + self.batch_size]


class OtherStream(_Batches):
    """Batches of any other sampler, counted.

    It is iterated from the beginning of the epoch to where the run goes on, without loading a sample. So far as it
    gives the same again, so does this.

    Args:
        batch_sampler: what the data loader had.
        sampler: its inner sampler, which may have an epoch to set.
    """

    def __init__(self, batch_sampler: Any, sampler: Any) -> None:
        super().__init__(getattr(batch_sampler, 'batch_size', None) or 1, None)
        self.batch_sampler, self.sampler = batch_sampler, sampler

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[Place]]:
        num = len(self) - self.skip if self.num is None else self.num
        epoch, passed, end = self.epoch, 0, self.skip + num
        while passed < end:
            for each in (self.sampler, self.batch_sampler):
                if callable(getattr(each, 'set_epoch', None)):
                    each.set_epoch(epoch)
            before = passed
            for indices in self.batch_sampler:
                if passed >= self.skip:
                    first = self.position(self.iteration + passed - self.skip, self.rank * self.batch_size)
                    yield [Place(self.seed, first + slot, index) for slot, index in enumerate(indices)]
                passed += 1
                if passed == end:
                    return
            if passed == before:
                raise UserError(f'train_dataloader: {type(self.sampler).__name__} gives no batch.')
            epoch += 1


def as_stream(loader: DataLoader, seed: int | None = None) -> DataLoader:
    """A data loader like this one whose batches come from a :class:`Stream`, or :class:`OtherStream`.

    Args:
        loader: not iterated yet.
        seed: what its sampler was configured with, if anything.

    Returns:
        The new loader, or the same one where there is nothing to sample: datasets that are only iterated.
    """
    dataset, batches = loader.dataset, loader.batch_sampler
    if isinstance(dataset, IterableDataset) or batches is None or isinstance(batches, _Batches):
        return loader
    sampler = getattr(batches, 'sampler', None)
    by_shape = (type(batches).__module__.partition('.')[0], type(batches).__name__) == (
        'mmdet',
        'AspectRatioBatchSampler',
    )
    if type(sampler) in (DefaultSampler, InfiniteSampler) and (by_shape or type(batches) is BatchSampler):
        stream: _Batches = Stream(
            len(dataset),
            batches.batch_size,
            shuffle=sampler.shuffle,
            endless=type(sampler) is InfiniteSampler and not by_shape,
            drop_last=batches.drop_last,
            seed=seed,
            is_wide=_Shape(sampler.dataset) if by_shape else None,
        )
    else:
        stream = OtherStream(batches, sampler)
    kept = {name: getattr(loader, name) for name in _KEPT}
    return type(loader)(PlacedDataset(dataset), batch_sampler=stream, **kept)


class _Shape:
    """Whether an image is at least as wide as high, by the annotations."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, index: int) -> bool:
        info = self.dataset.get_data_info(index)
        return info['width'] >= info['height']
