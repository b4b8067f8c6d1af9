"""Hooks that let no broken sample and no infinite loss pass in silence."""

from __future__ import annotations

import io
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook, LoggerHook
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _NormBase

from ..checkpoints.atomic import NotWrittenError, write_file
from ..data.broken import BrokenSamples, Ledger, deaths_held_back, raise_deaths, read_list
from ..data.loading import NamingPipeline, name_unreadable_files, pipelines
from ..errors import UserError
from ..registry import HOOKS
from .checkpoint_hook import CheckpointHook
from .distributed import unwrapped
from .plain import to_plain

__all__ = ['BrokenSamplesHook', 'FiniteLossHook', 'STEP_FORMAT', 'image_paths', 'saving_progress']

LIST = 'skipped_samples.jsonl'
STEP_FORMAT = 'densevit.step.1'
_ENOUGH = 100  # samples after which a share of broken ones means something


@HOOKS.register_module()
class BrokenSamplesHook(Hook):
    """Tells a training run's pipelines what to do about broken samples, and the log what they have left out.

    The line comes at the end of an interval of the log in which something was left out: broken samples, and those
    that a step of the pipeline has dropped, as mmdet's do with an image whose objects have all vanished. In both cases
    mmengine's datasets silently take another sample, by the sample's own random numbers, so that a resumed run takes
    the same. Broken files are listed in ``skipped_samples.jsonl`` of the work dir.

    Args:
        policy: ``'stop'`` or ``'skip'``; see :class:`densevit.data.broken.BrokenSamples`.
        limit: share of broken samples at which ``'skip'`` stops too.
    """

    priority = 'VERY_LOW'  # after the line of the log

    def __init__(self, policy: str = 'stop', limit: float = BrokenSamples.limit) -> None:
        self.broken = BrokenSamples.of({'policy': policy, 'limit': limit})
        self._ledgers: list[Ledger] = []
        self._interval = 50
        self._told: Counter[str] = Counter()
        self._step = ExitStack()
        # finished iterations, while the next batch is waited for
        self._waits_after: int | None = None

    @classmethod
    def of(cls, cfg: Mapping[str, Any]) -> BrokenSamplesHook:
        """The hook that a config's ``broken_samples`` asks for: a policy, or a dict with this class's arguments."""
        broken = BrokenSamples.of(cfg.get('broken_samples', 'stop'))
        return cls(broken.policy, broken.limit)

    def before_train(self, runner: Any) -> None:
        """Reach the pipelines before workers copy them."""
        found = self._reach(runner)
        self._ledgers = list({id(each.ledger): each.ledger for each in found if each.ledger is not None}.values())
        self._interval = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 50)
        self._told = self._counts()
        self._waits_after = None

    def _reach(self, runner: Any) -> list[NamingPipeline]:
        found = pipelines(runner.train_dataloader.dataset)
        for pipeline in found:
            pipeline.broken = self.broken
            pipeline.list_file = Path(runner.work_dir, LIST)
        return found

    def before_train_epoch(self, runner: Any) -> None:
        """Reach the pipeline that a hook has put in the place of another, as mmdet's ``PipelineSwitchHook`` does."""
        if self._ledgers:
            name_unreadable_files(runner.train_dataloader.dataset, self._ledgers[0])
            self._reach(runner)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """From here on an error would leave a step half done."""
        self._waits_after = None
        self._step.enter_context(deaths_held_back())

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """At the end of an interval, say what was left out."""
        self._step.close()
        self._waits_after = runner.iter + 1
        raise_deaths()
        if self.every_n_train_iters(runner, self._interval):
            self._tell(runner)

    def before_val(self, runner: Any) -> None:
        """What has come before is saved by its own hook; an average may take the weights' place."""
        self._waits_after = None

    def after_val(self, runner: Any) -> None:
        """Training goes on."""
        self._waits_after = runner.iter

    def release(self) -> None:
        """End a step that an error has left half done."""
        self._step.close()

    def save(self, runner: Any) -> None:
        """Save the state of a run that has ended for want of a batch, if it is whole and of one process."""
        self.release()
        hook = next((each for each in runner.hooks if isinstance(each, CheckpointHook)), None)
        if hook is None or not self._waits_after or get_world_size() > 1:
            return
        try:
            saved = hook.save_stopped(runner, runner.epoch, self._waits_after)
        except UserError as error:
            runner.logger.warning(f'the {self._waits_after} iterations so far could not be saved: {error}')
        else:
            runner.logger.info(f'saved as {saved}: --resume goes on from there')

    def after_train_epoch(self, runner: Any) -> None:
        """Say it of the rest."""
        self._tell(runner)

    def _counts(self) -> Counter[str]:
        return sum((ledger.counts() for ledger in self._ledgers), Counter())

    def _tell(self, runner: Any) -> None:
        """Log what is new.

        Raises:
            UserError: more samples are broken than the limit allows.
        """
        counts = self._counts()
        if get_world_size() > 1:
            counts = sum(all_gather_object(counts), Counter())
        left_out = {key: count for key, count in counts.items() if key != 'seen'}
        if left_out == {key: count for key, count in self._told.items() if key != 'seen'}:
            return
        self._told = counts
        seen, broken, file = counts['seen'], counts['broken'], Path(runner.work_dir, LIST)
        if broken:
            names = list(read_list(file))
            few = ', '.join(names[-3:])
            text = f'skipped {broken:,} of {seen:,} samples as broken ({len(names)} files, the last: {few}): {file}'
            runner.logger.warning(text)
        dropped = {key: count for key, count in left_out.items() if key != 'broken' and count}
        if dropped:
            parts = ', '.join(f'{count:,} {key}' for key, count in dropped.items())
            runner.logger.info(f'of {seen:,} samples {parts}; others were taken in their place')
        if seen >= _ENOUGH and broken > self.broken.limit * seen:
            raise UserError(
                f'{broken:,} of {seen:,} samples are broken, more than broken_samples.limit={self.broken.limit:g}; '
                f'they are listed with the reasons in {str(file)!r}: mend them or take them out, or raise the limit.'
            )


@contextmanager
def saving_progress(runner: Any) -> Iterator[None]:
    """Within it a training that ends because of a sample is saved as it is."""
    hook = next(each for each in runner.hooks if isinstance(each, BrokenSamplesHook))
    try:
        yield
    except UserError:
        hook.save(runner)
        raise
    finally:
        hook.release()


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops a run whose loss, or norm of the gradient, is not finite, before the weights are spoiled by it.

    The batch, the model, the optimizer and the random generators as they were before the step go to
    ``nonfinite_iter_N.pth`` in the work dir, plain values only, for ``tools/replay.py``.

    The loss is copied to the CPU while the backward pass runs, and looked at before the optimizer's step: a GPU that is
    behind waits for nothing. The norm is the one that ``clip_grad`` measures anyway; with a loss scaler (float16) it is
    not looked at, since the scaler finds its scale by infinite gradients and leaves such steps out.
    """

    priority = 'VERY_LOW'  # before an iteration the last: whatever draws random numbers or seeds has done so

    def __init__(self) -> None:
        self._runner: Any = None
        self._watch = _LossWatch()
        self._norms: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._batch: Any = None
        self._random: dict[str, Any] = {}
        self._undo: list[Callable[[], None]] = []

    def before_train(self, runner: Any) -> None:
        """Get between the backward pass and the optimizer's step."""
        self._runner, wrapper = runner, runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):  # a dict of several, of models that call them themselves
            return
        backward = wrapper.backward

        def watched(loss: Tensor, **options: Any) -> None:
            self._watch.begin(loss)
            backward(loss, **options)

        wrapper.backward = watched
        handle = wrapper.optimizer.register_step_pre_hook(lambda *_: self._check())
        self._undo = [handle.remove, lambda: delattr(wrapper, 'backward')]
        self._norms = list(_statistics(unwrapped(runner.model)))
        self._kept = [each.clone() for each in self._norms]

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keep what a step changes before it can be looked at: 50 µs."""
        self._batch, self._random = data_batch, _random_state()
        for kept, now in zip(self._kept, self._norms, strict=True):
            kept.copy_(now)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Look at the loss of a batch without an update of its own."""
        self._check()
        self._batch = None

    def after_train(self, runner: Any) -> None:
        """Leave the optimizer as it was."""
        while self._undo:
            self._undo.pop()()

    def _check(self) -> None:
        """Hold loss and norm against infinity.

        Raises:
            UserError: one of them is not finite.
        """
        loss = self._watch.end()
        if loss is not None and not math.isfinite(loss):
            self._stop('loss', loss)
        wrapper = self._runner.optim_wrapper
        if wrapper.clip_grad_kwargs and not hasattr(wrapper, 'loss_scaler'):
            scalars = wrapper.message_hub.log_scalars.get(f'train/{wrapper.grad_name}')
            norm = scalars.current() if scalars is not None and len(scalars.data[0]) else 0.0
            if not math.isfinite(norm):
                self._stop('norm of the gradient', norm)

    def _stop(self, what: str, value: float) -> None:
        runner = self._runner
        for kept, now in zip(self._kept, self._norms, strict=True):
            now.copy_(kept)
        rank = f'_rank{get_rank()}' if get_world_size() > 1 else ''
        file = Path(runner.work_dir, f'nonfinite_iter_{runner.iter + 1}{rank}.pth')
        try:
            self._save(file, what, value)
            saved = (
                f'the batch and the state before this step are in {str(file)!r}: `python tools/replay.py {file}` '
                'repeats it and says where it begins'
            )
        except NotWrittenError as error:
            saved = f'the batch and the state could not be saved: {str(error).rstrip(".")}'
        paths = image_paths(self._batch)
        images = f' (images: {", ".join(paths[:4])}{", ..." if len(paths) > 4 else ""})' if paths else ''
        raise UserError(f'iteration {runner.iter + 1}: the {what} is {value}{images}; {saved}.')

    def _save(self, file: Path, what: str, value: float) -> None:
        runner = self._runner
        # to bring the parts of the processes together would take all of them, and the others know of nothing
        whole = not any(isinstance(each, DTensor) for each in runner.model.parameters())
        content = {
            'format': STEP_FORMAT,
            'what': what,
            'value': value,
            'iteration': runner.iter + 1,
            'epoch': runner.epoch + 1,
            'seed': runner.seed,
            'device': next(runner.model.parameters()).device.type,
            'config': to_plain(runner.cfg.to_dict()),
            'batch': to_plain(self._batch),
            'random': to_plain(self._random),
            'state_dict': unwrapped(runner.model).state_dict() if whole else None,
            'optimizer': to_plain(runner.optim_wrapper.state_dict()) if whole else None,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_file(file, buffer.getvalue())


class _LossWatch:
    """The latest loss, on its way to the CPU."""

    def __init__(self) -> None:
        self._value = torch.zeros(())
        self._arrived: torch.cuda.Event | None = None
        self._pending = False

    def begin(self, loss: Tensor) -> None:
        """Send it."""
        loss = loss.detach()
        if loss.is_cuda:
            # bfloat16 and float16 too: infinity stays what it is
            if not self._value.is_pinned():
                self._value = torch.empty((), dtype=torch.float32, pin_memory=True)
            self._value.copy_(loss, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._value = loss
        self._pending = True

    def end(self) -> float | None:
        """Wait for it; None where there is none since the last time."""
        if not self._pending:
            return None
        self._pending = False
        if self._arrived is not None:
            self._arrived.synchronize()
        return float(self._value)


def _random_state() -> dict[str, Any]:
    """Of all generators that a step may draw from, in plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        'python': random.getstate(),
        'numpy': (str(name), keys, position, has_gauss, gauss),
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def _statistics(model: nn.Module) -> Iterator[Tensor]:
    """The running statistics of the normalizations, which a forward pass changes."""
    for module in model.modules():
        if isinstance(module, _NormBase):
            yield from module.buffers(recurse=False)


def image_paths(batch: Any) -> list[str]:
    """The images of a batch, as far as its data samples know them."""
    samples = batch.get('data_samples') if isinstance(batch, Mapping) else None
    samples = samples if isinstance(samples, list | tuple) else []
    paths = [getattr(sample, 'metainfo', {}).get('img_path') for sample in samples]
    return [str(path) for path in paths if path]
