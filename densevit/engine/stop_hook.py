"""Stopping a training when a scheduler or Ctrl-C asks for it, with nothing lost."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from torch import distributed

from .checkpoint_hook import CheckpointHook
from .signals import Stopped, StopSignals

__all__ = ['StopHook']


class StopHook(Hook):
    """Saves and stops where a signal has asked for it: after an iteration, or between two batches of a validation.

    A validation that is cut short is not marked as done. All processes stop after the same iteration: they agree on it
    by a reduction of one number over gloo, on the CPU, so that no GPU has to be waited for.

    Args:
        signals: who was asked.
    """

    priority = 'LOWEST'  # when everything else of the iteration is done

    def __init__(self, signals: StopSignals) -> None:
        self.signals = signals
        self._group: Any = None
        self._val_batches = 0
        self._agreed: int | None = None

    def before_train(self, runner: Any) -> None:
        """From here on there is something to save."""
        if get_world_size() > 1 and distributed.get_backend() != 'gloo':
            self._group = distributed.new_group(backend='gloo')
        self.signals.patient = True

    def after_train(self, runner: Any) -> None:
        """From here on there is nothing left to save."""
        self.signals.patient = False

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Stop, unless an epoch ends here, whose end is a part of it."""
        if not self._is_asked():
            return
        if _counts_epochs(runner) and self.end_of_epoch(runner.train_dataloader, batch_idx):
            return
        self._stop(runner, runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner: Any) -> None:
        """Stop if the last iteration was asked to."""
        if _counts_epochs(runner) and self._agreed is not None:
            self._stop(runner, runner.epoch + 1, runner.iter)

    def before_val_epoch(self, runner: Any) -> None:
        """Count the batches that every process has."""
        self._val_batches = int(self._reduce(len(runner.val_dataloader), 'MIN'))

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop; the validation is to be done again."""
        if not self.signals.patient or batch_idx >= self._val_batches or not self._is_asked():
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(runner)  # the average has taken the weights' place
        self._stop(runner, runner.epoch, runner.iter, ' in a validation, which will be done anew')

    def _is_asked(self) -> bool:
        """Whether any process was asked to stop."""
        if self._agreed is None:
            self._agreed = int(self._reduce(self.signals.received or 0, 'MAX')) or None
        return self._agreed is not None

    def _reduce(self, value: int, how: str) -> int:
        if get_world_size() == 1:
            return value
        number = torch.tensor(value)
        distributed.all_reduce(number, op=getattr(distributed.ReduceOp, how), group=self._group)
        return int(number)

    def _stop(self, runner: Any, epoch: int, iteration: int, where: str = '') -> None:
        hook = next((each for each in runner.hooks if isinstance(each, CheckpointHook)), None)
        if hook is None:  # the config has none, or its own
            hook = CheckpointHook(by_epoch=_counts_epochs(runner))
            hook.before_train(runner)
        saved = hook.save_stopped(runner, epoch, iteration)
        runner.visualizer.close()
        saved = f'saved as {saved}, --resume goes on from there.' if saved else 'there was no room to save it.'
        raise Stopped(self._agreed, f'after iteration {iteration}{where}; {saved}' if is_main_process() else '')


def _counts_epochs(runner: Any) -> bool:
    """Whether the training loop goes epoch by epoch; one by iterations takes the whole training for one."""
    return hasattr(runner.train_loop, 'run_epoch')
