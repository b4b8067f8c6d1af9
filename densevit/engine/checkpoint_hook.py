"""Checkpoints that no accident leaves without a whole one."""

from __future__ import annotations

import hashlib
import inspect
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, broadcast_object_list, is_main_process, master_only
from mmengine.fileio import LocalBackend, register_backend
from mmengine.registry import HOOKS as MMENGINE_HOOKS

from ..checkpoints import read_checkpoint
from ..checkpoints.atomic import NotWrittenError, remove_file, remove_leftovers, write_file, write_note
from ..errors import UserError, did_you_mean
from ..registry import HOOKS

__all__ = ['WHOLE_FILES', 'CheckpointHook', 'WholeFiles']

_MmengineCheckpointHook = MMENGINE_HOOKS.get('CheckpointHook')
WHOLE_FILES = 'densevit_whole_files'  # the backend's name
_ON_FULL_DISK = ('stop', 'continue')


class WholeFiles(LocalBackend):
    """mmengine's local files, written by :func:`densevit.checkpoints.atomic.write_file`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file and its hash.

        Raises:
            NotWrittenError: it cannot be written.
        """
        write_file(Path(filepath), obj)


register_backend(WHOLE_FILES, WholeFiles, force=True)


@HOOKS.register_module()
class CheckpointHook(_MmengineCheckpointHook):
    """mmengine's hook, by which a run that is killed at any moment loses no more than what came after its last save.

    mmengine removes an old checkpoint, and an old best one, before it writes the new, under its final name, and the
    note ``last_checkpoint`` by opening it for writing. Here old files go when the new one is in place; the files are
    whole and have their SHA-256 beside them (:mod:`densevit.checkpoints.atomic`). What a killed run has left unfinished
    is removed when the next one begins: a work dir is for one run at a time.

    :class:`densevit.engine.runner.Runner` puts it into the place of mmengine's in every config.

    Args:
        args: of mmengine's hook.
        on_full_disk: ``'stop'`` ends the run with a message where there is no room for a checkpoint; ``'continue'``
            goes on without, says so every time, and writes the next one when it is due; only the last one must be.
        options: of mmengine's hook.

    Raises:
        UserError: an argument that neither knows; mmengine would stumble over it at the first checkpoint.
    """

    def __init__(self, *args: Any, on_full_disk: str = 'stop', **options: Any) -> None:
        super().__init__(*args, **options)
        if on_full_disk not in _ON_FULL_DISK:
            raise UserError(
                f'CheckpointHook.on_full_disk={on_full_disk!r}: valid are {", ".join(map(repr, _ON_FULL_DISK))}.'
            )
        for name in self.args:
            raise UserError(f'CheckpointHook has no argument {name!r}{did_you_mean(name, _arguments()) or "."}')
        self.on_full_disk = on_full_disk
        # (epoch, iteration) of the state that was saved last, and what has kept the newest one from it
        self._saved: tuple[int, int] | None = None
        self._unsaved: NotWrittenError | None = None

    def before_train(self, runner: Any) -> None:
        """Find the folder, and what a run that is resumed has left in it; tidy it up."""
        super().before_train(runner)
        self._find_earlier(runner)
        if is_main_process() and self._is_local():
            left = remove_leftovers(Path(self.out_dir))
            if left:
                runner.logger.info(f'removed what a run that was killed has left unfinished: {", ".join(left)}')

    def _find_earlier(self, runner: Any) -> None:
        """Look here for the newest and best checkpoints, whose paths are those of the run that is resumed.

        Its folder may have been moved. Or it is another one, and then its files are not this run's to remove.
        """
        several = self.save_best is not None and len(self.key_indicators) > 1
        best = self.best_ckpt_path_dict if several else {'': getattr(self, 'best_ckpt_path', None)}
        last = runner.message_hub.runtime_info.get('last_ckpt')
        found = [self._here(last), {key: self._here(path) for key, path in best.items()}]
        broadcast_object_list(found)  # a disk of the network may show others other files
        self.last_ckpt, best = found
        if several:
            self.best_ckpt_path_dict = best
        elif self.save_best is not None:
            self.best_ckpt_path = best['']

    def _here(self, path: str | None) -> str | None:
        """The file of this name in the folder, None where there is none."""
        own = self._path(Path(path).name) if path else None
        return own if own and (self.file_backend.isfile(own) or self.file_backend.isdir(own)) else None

    def after_train(self, runner: Any) -> None:
        """Publish; a run whose last state is nowhere has not succeeded."""
        super().after_train(runner)
        if self._unsaved is not None:
            raise self._unsaved

    def save_stopped(self, runner: Any, epoch: int, iteration: int) -> str | None:
        """Save the state of a run that is to stop between two regular checkpoints.

        In a run that counts epochs it is ``iter_N.pth`` too, and is removed when the next regular one is in place.

        Args:
            runner: the runner.
            epoch: finished epochs.
            iteration: finished iterations.

        Returns:
            Path of the checkpoint with this state; None where the disk was full and the run goes on.
        """
        if self._saved == (epoch, iteration):
            return self.last_ckpt
        meta = dict(epoch=epoch, iter=iteration)
        if self.by_epoch:
            self._save_latest(runner, f'iter_{iteration}.pth', meta, stopped=True)
        else:
            self._save_checkpoint_with_step(runner, iteration, meta)
        return self.last_ckpt if self._saved == (epoch, iteration) else None

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        """What mmengine's hook calls to save a checkpoint that is to be found again and in time removed."""
        if self.max_keep_ckpts <= 0:
            self._save_latest(runner, self.filename_tmpl.format(step), meta)
            return
        kept = [*(each for each in self.keep_ckpt_ids if each != step), step]
        # with those to be removed: if the run is killed before it comes to that, the next one does it
        before = self._note(runner, keep_ckpt_ids=kept)
        if not self._save_latest(runner, self.filename_tmpl.format(step), meta):
            self._take_back(runner, before)
            return
        outdated = kept[: -self.max_keep_ckpts]
        self.keep_ckpt_ids.clear()
        self.keep_ckpt_ids.extend(kept[len(outdated) :])
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self._remove(self._path(self.filename_tmpl.format(each)) for each in outdated)

    def _save_latest(self, runner: Any, name: str, meta: dict, *, stopped: bool = False) -> bool:
        """Save the whole state and note where it is; return whether it was saved."""
        path, state, known = self._path(name), (meta['epoch'], meta['iter']), runner.message_hub.runtime_info
        earlier = known.get('stopped_ckpt')
        before = self._note(runner, last_ckpt=path, **({'stopped_ckpt': name} if stopped else {}))
        whole = dict(
            save_optimizer=self.save_optimizer or stopped, save_param_scheduler=self.save_param_scheduler or stopped
        )
        if not self._save(runner, name, meta, self.by_epoch, note=path, **whole):
            self._take_back(runner, before)
            return False
        self.last_ckpt, self._saved, self._unsaved = path, state, None
        if earlier and earlier != name:
            self._remove([self._path(earlier)])
            if not stopped:
                del known['stopped_ckpt']
        return True

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        """mmengine's, but the former best one goes when the new one is there."""
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        step = runner.epoch if self.by_epoch else runner.iter
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        better = [
            self._save_best(runner, key, rule, metrics, step, dict(meta))
            for key, rule in zip(self.key_indicators, self.rules, strict=True)
        ]
        # the newest is to know which the best one is
        if any(better) and self.last_ckpt is not None:
            self._save_checkpoint_with_step(runner, step, meta)

    def _save_best(self, runner: Any, key: str, rule: str, metrics: dict, step: int, meta: dict) -> bool:
        """Save the best checkpoint by one metric if it is better; return whether it was saved."""
        if key not in metrics:
            raise UserError(
                f'CheckpointHook.save_best={key!r}: the validation measures no such thing'
                f'{did_you_mean(key, metrics) or "."} There are: {", ".join(metrics)}.'
            )
        alone = len(self.key_indicators) == 1
        score_key, path_key = ('best_score', 'best_ckpt') if alone else (f'best_score_{key}', f'best_ckpt_{key}')
        score, known = metrics[key], runner.message_hub.runtime_info
        if score is None or not self.is_better_than[key](score, known.get(score_key, self.init_value_map[rule])):
            return False
        name = f'best_{key}_{self.filename_tmpl.format(step)}'.replace('/', '_')
        path = self._path(name)
        before = self._note(runner, **{score_key: score, path_key: path})
        if not self._save(runner, name, meta, False, save_optimizer=False, save_param_scheduler=False):
            self._take_back(runner, before)
            return False
        former = self.best_ckpt_path if alone else self.best_ckpt_path_dict.get(key)
        if alone:
            self.best_ckpt_path = path
        else:
            self.best_ckpt_path_dict[key] = path
        unit = 'epoch' if self.by_epoch else 'iter'
        runner.logger.info(f'The best checkpoint with {score:0.4f} {key} at {step} {unit} is saved to {name}.')
        if former and former != path:
            self._remove([former])
        return True

    def _save(
        self, runner: Any, name: str, meta: dict, by_epoch: bool, *, note: str | None = None, **options: bool
    ) -> bool:
        """Save a checkpoint in all processes, and what it is to be found by; return whether there was room for it."""
        problem = None
        # a process that has stopped, at a loss that is not finite, has spoiled the weights of the others
        barrier()
        try:
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                meta=meta,
                by_epoch=by_epoch,
                backend_args=self.backend_args,
                **options,
            )
            if note and is_main_process():
                write_note(Path(runner.work_dir, 'last_checkpoint'), note)
        except NotWrittenError as error:
            problem = error
        # the first process writes, and the others are to do as it does
        shared = [None if problem is None else (str(problem), problem.full)]
        broadcast_object_list(shared)
        if shared[0] is None:
            return True
        message, full = shared[0]
        problem = problem or NotWrittenError(message, full=full)
        if self.on_full_disk != 'continue' or not full:
            raise problem
        if note:
            self._unsaved = problem
        runner.logger.warning(f'{message} Training goes on without it (on_full_disk).')
        return False

    @staticmethod
    def _note(runner: Any, **infos: Any) -> dict[str, Any]:
        """Put into the message hub, which is a part of the checkpoint; return what was there."""
        before = dict(runner.message_hub.runtime_info)
        for key, value in infos.items():
            runner.message_hub.update_info(key, value)
        return before

    @staticmethod
    def _take_back(runner: Any, before: dict[str, Any]) -> None:
        """Give the message hub what was there, since the checkpoint was not written."""
        known = runner.message_hub.runtime_info
        known.clear()
        known.update(before)

    @master_only
    def _publish_model(self, runner: Any, ckpt_path: str | None) -> None:
        """mmengine's: some of a checkpoint's keys, in a file whose name ends with the first digits of its SHA-256."""
        if ckpt_path is None:  # by one of several metrics none was the best
            return
        if not self._is_local():
            super()._publish_model(runner, ckpt_path)
            return
        content = {key: value for key, value in read_checkpoint(ckpt_path).items() if key in self.published_keys}
        buffer = io.BytesIO()
        torch.save(content, buffer)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        path = Path(ckpt_path).with_suffix('')
        path = path.with_name(f'{path.name}-{digest[:8]}.pth')
        write_file(path, buffer.getvalue())
        runner.logger.info(f'{ckpt_path} is published as {path}')

    def _remove(self, paths: Iterable[str]) -> None:
        if not is_main_process():
            return
        for path in paths:
            if self.file_backend.isdir(path):  # of DeepSpeed
                self.file_backend.rmtree(path)
            elif self._is_local():
                remove_file(Path(path))
            elif self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _path(self, name: str) -> str:
        return self.file_backend.join_path(self.out_dir, name)

    def _is_local(self) -> bool:
        return isinstance(self.file_backend, LocalBackend)


def _arguments() -> list[str]:
    return [*inspect.signature(_MmengineCheckpointHook.__init__).parameters, 'on_full_disk']
