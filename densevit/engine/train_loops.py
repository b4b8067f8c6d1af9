"""Training loops that go on exactly where a run was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.dist import get_dist_info
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from torch import nn
from torch.utils.data import DataLoader

from ..data.stream import OtherStream, as_stream, seed_process
from ..registry import LOOPS

__all__ = ['EpochBasedTrainLoop', 'IterBasedTrainLoop', 'exact_loop']

_MmengineEpochLoop = MMENGINE_LOOPS.get('EpochBasedTrainLoop')
_MmengineIterLoop = MMENGINE_LOOPS.get('IterBasedTrainLoop')
# In a checkpoint's message hub: the iteration of the last validation, and what iterations consist of. (What begins with
# train, val or test is logged.)
VALIDATED, STREAM = 'last_validation', 'stream'


class _Exact:
    """What both loops share: the stream, the randomness of an iteration, a validation that is due."""

    runner: Any
    dataloader: DataLoader
    _iter: int

    @property
    def _streams(self) -> bool:
        return hasattr(self.dataloader.batch_sampler, 'begin')

    def _begin(self, num: int, epoch: int, skip: int) -> None:
        self.dataloader.batch_sampler.begin(_seed(self.runner), self._iter, num, epoch, skip)

    def run_iter(self, *args: Any) -> None:
        """mmengine's, with randomness that is a function of seed, process and iteration."""
        rank, world_size = get_dist_info()
        seed_process(_seed(self.runner), self._iter * world_size + rank)
        super().run_iter(*args)

    def _go_on(self) -> None:
        """Compare a resumed run with what it was, and do the validation that it did not live to see the end of."""
        stream, hub = self.dataloader.batch_sampler, self.runner.message_hub
        now = {
            'processes': stream.world_size,
            'samples per process and iteration': stream.batch_size,
            'samples in the dataset': len(self.dataloader.dataset),
        }
        before = hub.runtime_info.get(STREAM)
        if self._iter > 0 and isinstance(before, dict) and before != now:
            changes = ', '.join(
                f'{now[key]} {key} instead of {before.get(key)}' for key in now if now[key] != before.get(key)
            )
            self.runner.logger.warning(
                f'resumed with {changes}: the samples to come are not those of the first run, and a schedule that '
                'counts epochs keeps the length that it had there.'
            )
        hub.update_info(STREAM, now)
        self._decide_current_val_interval()
        if self._iter > 0 and self._val_is_due() and hub.runtime_info.get(VALIDATED) != self._iter:
            self.runner.logger.info(f'validation after iteration {self._iter}, which the run before did not finish')
            self.runner.val_loop.run()


@LOOPS.register_module()
class IterBasedTrainLoop(_Exact, _MmengineIterLoop):
    """mmengine's loop over iterations, which can begin at any of them.

    Args:
        runner: the runner that this loop belongs to.
        dataloader: what to train on; its batches become a :class:`densevit.data.stream.Stream`.
        max_iters: iterations in all.
        val_begin: the first iteration after which to validate.
        val_interval: iterations between validations.
        dynamic_intervals: pairs of an iteration and the interval from there on.
        fast_forward_on_resume: mmengine's; without meaning here, as there is nothing to go through again.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
        fast_forward_on_resume: bool = False,
    ) -> None:
        super().__init__(
            runner, _stream_loader(runner, dataloader), max_iters, val_begin, val_interval, dynamic_intervals
        )

    def run(self) -> nn.Module:
        """Train to the last iteration, or until a hook says stop; returns the model."""
        if not self._streams:
            return super().run()
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self._go_on()
        self._begin(self._max_iters - self._iter, epoch=0, skip=self._iter)
        self.dataloader_iterator = iter(self.dataloader) if self._iter < self._max_iters else None
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if self._val_is_due():
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _val_is_due(self) -> bool:
        return (
            self.runner.val_loop is not None
            and self._iter >= self.val_begin
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        )


@LOOPS.register_module()
class EpochBasedTrainLoop(_Exact, _MmengineEpochLoop):
    """mmengine's loop over epochs, which can begin in the middle of one.

    Args:
        runner: the runner that this loop belongs to.
        dataloader: what to train on; its batches become a :class:`densevit.data.stream.Stream`.
        max_epochs: epochs in all.
        val_begin: the first epoch after which to validate.
        val_interval: epochs between validations.
        dynamic_intervals: pairs of an epoch and the interval from there on.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(
            runner, _stream_loader(runner, dataloader), max_epochs, val_begin, val_interval, dynamic_intervals
        )

    def check_resumed(self) -> None:
        """Go back to the beginning of an epoch if epochs have another length than in the run that is resumed."""
        done, length = self._iter - self._epoch * len(self.dataloader), len(self.dataloader)
        if not 0 <= done <= length:
            begin = self._epoch * length
            self.runner.logger.warning(
                f'the checkpoint is of iteration {self._iter} in epoch {self._epoch}, counted from 0, but an epoch has '
                f'{length} iterations now: going on at the beginning of this epoch, as iteration {begin}.'
            )
            self._iter = begin

    def run(self) -> nn.Module:
        """Train to the last epoch, or until a hook says stop; returns the model."""
        if not self._streams:
            return super().run()
        self.runner.call_hook('before_train')
        self._go_on()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            if self._val_is_due():
                self.runner.val_loop.run()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train on what is left of an epoch."""
        if not self._streams:
            super().run_epoch()
            return
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        length = len(self.dataloader)
        done = self._iter - self._epoch * length
        if done < length:
            self._begin(length - done, self._epoch, skip=done)
            for index, batch in enumerate(self.dataloader, start=done):
                self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _val_is_due(self) -> bool:
        return (
            self.runner.val_loop is not None
            and self._iter == self._epoch * len(self.dataloader)
            and self._epoch >= self.val_begin
            and (self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs)
        )


def exact_loop(loop: dict) -> dict:
    """A config's training loop; for mmengine's own, the one here."""
    kind = loop.get('type') or {True: 'EpochBasedTrainLoop', False: 'IterBasedTrainLoop'}.get(loop.get('by_epoch'))
    found = MMENGINE_LOOPS.get(kind) if isinstance(kind, str) else kind
    ours = {_MmengineEpochLoop: EpochBasedTrainLoop, _MmengineIterLoop: IterBasedTrainLoop}.get(found)
    if ours is None:
        return loop
    return {'type': ours, **{key: value for key, value in loop.items() if key not in ('type', 'by_epoch')}}


def _seed(runner: Any) -> int:
    """The first process's, which the others share."""
    return runner.seed - (runner.rank if runner._randomness_cfg.get('diff_rank_seed') else 0)


def _stream_loader(runner: Any, dataloader: DataLoader | dict) -> DataLoader:
    if isinstance(dataloader, dict):
        settings: Sequence[Any] = (runner.seed, runner._randomness_cfg.get('diff_rank_seed', False))
        seed = (dataloader.get('sampler') or {}).get('seed')
        loader = runner.build_dataloader(dataloader, *settings)
    else:
        loader, seed = dataloader, getattr(dataloader.sampler, 'seed', None)
    loader = as_stream(loader, seed)
    if isinstance(loader.batch_sampler, OtherStream):
        inner = loader.batch_sampler
        name = ' in '.join(type(each).__name__ for each in (inner.sampler, inner.batch_sampler) if each is not None)
        runner.logger.info(
            f'train_dataloader: {name} is no sampler of mmengine; a resumed run sees the same samples as far as it '
            'gives the same again.'
        )
    elif not hasattr(loader.batch_sampler, 'begin'):
        runner.logger.warning('train_dataloader: a dataset without indices; a resumed run may see other samples.')
    return loader
