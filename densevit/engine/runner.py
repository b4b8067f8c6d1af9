"""Building the runner of a config: mmengine's, but a checkpoint loads whole or not at all."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel
from mmengine.runner import BaseLoop
from mmengine.runner import Runner as MMRunner
from mmengine.utils.dl_utils import collect_env
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from ..check.model import check_channels, telling_what_is_wrong
from ..checkpoints import CheckpointError, LoadReport, load_weights, read_checkpoint
from ..data.broken import Ledger, name_lost_workers
from ..data.loading import name_unreadable_files
from ..noise import drop_noise
from .checkpoint_hook import WHOLE_FILES, CheckpointHook
from .config_text import ConfigOfRun
from .disk import is_full, quiet_when_full
from .distributed import start_processes, unwrapped
from .fsdp import FullyShardedModel, whole_states
from .guards import BrokenSamplesHook, FiniteLossHook, saving_progress
from .resume_hook import ResumeHook
from .signals import shield_worker
from .train_loops import EpochBasedTrainLoop, exact_loop

__all__ = ['Runner', 'build_runner']

# The runs of this process: mmengine keeps loggers and visualizers by name, and a second run would get the first's.
_RUNS = itertools.count()
# Settings of a data loader that mean something with workers only.
_OF_WORKERS = ('persistent_workers', 'prefetch_factor', 'timeout')
# Seconds without a batch after which a worker hangs, where the config does not say; torch would wait for ever.
_PATIENCE = 600


class Runner(MMRunner):
    """mmengine's runner with :func:`densevit.checkpoints.load_weights`, and with a short log.

    mmengine loads what fits, logs the rest and goes on, so a run can start from random weights unnoticed; and it
    reads a file that would have to run code, which here is refused.

    The environment goes to ``environment.txt`` beside the log, the config to the work dir; mmengine's log opens with
    some hundred lines of both.
    """

    # of the checkpoint that was loaded last
    report: LoadReport | None = None

    @property
    def bare_model(self) -> nn.Module:
        """The model without its distributed wrapper and without test-time augmentation."""
        model = unwrapped(self.model)
        return model.module if isinstance(model, BaseTTAModel) else model

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """mmengine's; whoever calls it, :meth:`load_checkpoint` knows that a whole state is asked for."""
        self._resume = True
        super().resume(filename, *args, **kwargs)
        if isinstance(self.train_loop, EpochBasedTrainLoop):
            self.train_loop.check_resumed()

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict:
        """Load weights, all or nothing, and log the report; return the content of the file, for ``resume``.

        Raises:
            CheckpointError: the file cannot be read, the weights do not fit the model, or a run is to be resumed and
                they are weights only.
        """
        content = read_checkpoint(filename)
        if self._resume:
            keys = ('meta', 'message_hub', 'state_dict')
            if not isinstance(content, Mapping) or not all(isinstance(content.get(key), Mapping) for key in keys):
                raise CheckpointError(
                    f'{str(filename)!r} holds weights but no state of a training run, so none can be resumed from it; '
                    'use --load-from to start a new one from these weights.'
                )
            if not content.get('optimizer') or (
                self.cfg.get('param_scheduler') and not content.get('param_schedulers')
            ):
                raise CheckpointError(
                    f'{str(filename)!r} lacks the state of optimizer or schedule, as best_*.pth do, so training would '
                    'not go on where it was; resume from an iter_*.pth or epoch_*.pth, or use --load-from.'
                )
            # mmengine would run this text as Python, for a number of GPUs that nobody has written there since 2020
            content['meta'].pop('config', None)
            # the average, where a run keeps one, trades places with the weights that were trained
            self.call_hook('after_load_checkpoint', checkpoint=content)
            report = load_weights(self.bare_model, content['state_dict'])
            if report.kept:
                raise CheckpointError(
                    f'{str(filename)!r} has not all weights of the run to be resumed: {report}; use --load-from to '
                    'start a new run from these.'
                )
        else:
            report = load_weights(self.bare_model, content, new_classes=self.cfg.get('new_classes', False))
            # an average starts from what was loaded; its hook looks for the names of the model that the runner has
            self.call_hook('after_load_checkpoint', checkpoint={'state_dict': unwrapped(self.model).state_dict()})
        self._has_loaded = True
        self.report = report
        self.logger.info(f'{filename}: {report}')
        return content

    def load_or_resume(self) -> None:
        """mmengine's, from the file that the first process has found: a network's disk may show others older ones."""
        shared = [(self._load_from, self._resume)]
        broadcast_object_list(shared)
        self._load_from, self._resume = shared[0]
        super().load_or_resume()

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        *args: Any,
        backend_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        """mmengine's; a file on a disk is written whole or not at all, with its hash beside it, whichever hook asks.

        All processes call it, as each may have gradients of its own, between two updates.

        Raises:
            NotWrittenError: it cannot be written.
        """
        if not (file_client_args or backend_args) and isinstance(get_file_backend(out_dir), LocalBackend):
            backend_args = dict(backend=WHOLE_FILES)
        self.resume_hook.collect(self)
        with whole_states(self):
            super().save_checkpoint(out_dir, filename, file_client_args, *args, backend_args=backend_args, **kwargs)

    def register_hook(self, hook: Hook | dict, priority: str | int | None = None) -> None:
        """mmengine's; for its hook of checkpoints, the one here."""
        kind = hook.get('type') if isinstance(hook, dict) else None
        if (isinstance(kind, str) and kind.rpartition('.')[2] == 'CheckpointHook') or kind in CheckpointHook.__bases__:
            hook = {**hook, 'type': 'densevit.CheckpointHook'}
        super().register_hook(hook, priority)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """mmengine's; where a run is to go on when the disk is full, a hook that finds no room is passed over."""
        if not any(isinstance(hook, CheckpointHook) and hook.on_full_disk == 'continue' for hook in self._hooks):
            super().call_hook(fn_name, **kwargs)
            return
        for hook in self._hooks:
            try:
                getattr(hook, fn_name, lambda runner, **kwargs: None)(self, **kwargs)
            except OSError as error:
                if not is_full(error):
                    raise
                self.logger.warning(f'{type(hook).__name__} cannot write ({error.strerror}); training goes on.')

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """mmengine's; what a part has against its arguments is the config's mistake."""
        with telling_what_is_wrong():
            built = super().build_model(model)
            check_channels(built.module if isinstance(built, BaseTTAModel) else built)
        return built

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """mmengine's; for a model of which each process has a part, the optimizer is told so."""
        built = super().build_optim_wrapper(optim_wrapper)
        if isinstance(self.model, FullyShardedModel):
            self.model.prepare(built)
        return built

    def _init_model_weights(self) -> None:
        if not isinstance(self.model, FullyShardedModel):  # which has done it when it was whole
            super()._init_model_weights()

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """mmengine's; in the place of its own loops come those that go on exactly where they were stopped."""
        return super().build_train_loop(exact_loop(loop) if isinstance(loop, dict) else loop)

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        """mmengine's, the one that completes checkpoints, and those that guard data and loss."""
        super().register_hooks(*args, **kwargs)
        for hook in (FiniteLossHook(), BrokenSamplesHook.of(self.cfg)):
            if not any(type(each) is type(hook) for each in self.hooks):
                self.register_hook(hook)
        self.resume_hook = ResumeHook()
        self.register_hook(self.resume_hook)
        for hook in [hook for hook in self.hooks if isinstance(hook, EarlyStoppingHook)]:
            # before the checkpoint of a new best, which would otherwise hold what it had seen one validation before
            self._hooks.remove(hook)
            self.register_hook(hook, priority='LOW')

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        drop_noise(logger)
        quiet_when_full(logger)
        return logger

    def build_visualizer(self, visualizer: Visualizer | dict | None = None) -> Visualizer:
        if isinstance(visualizer, dict):
            visualizer = {**visualizer, 'name': self.experiment_name}
        return super().build_visualizer(visualizer)

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> DataLoader:
        if isinstance(dataloader, dict) and dataloader.get('num_workers') == 0:
            # `num_workers=0` is how one debugs; torch refuses what only workers have
            dataloader = {key: value for key, value in dataloader.items() if key not in _OF_WORKERS}
        elif isinstance(dataloader, dict) and dataloader.get('num_workers'):
            dataloader = {'timeout': _PATIENCE, **dataloader}
        loader = MMRunner.build_dataloader(dataloader, *args, **kwargs)
        name_unreadable_files(loader.dataset, Ledger(loader.num_workers))
        if loader.num_workers > 0:
            loader.worker_init_fn = partial(shield_worker, loader.worker_init_fn)
        return loader

    def train(self) -> nn.Module:
        """mmengine's; a data worker that dies or hangs is named with its sample, and what was trained is saved."""
        with saving_progress(self), name_lost_workers():
            return super().train()

    def val(self) -> dict:
        """As :meth:`train`."""
        with name_lost_workers():
            return super().val()

    def test(self) -> dict:
        """As :meth:`train`."""
        with name_lost_workers():
            return super().test()

    def _log_env(self, env_cfg: dict) -> None:
        if self.rank == 0:
            lines = [f'{name}: {value}' for name, value in {**collect_env(), **env_cfg}.items()]
            Path(self.log_dir, 'environment.txt').write_text('\n'.join(lines) + '\n', encoding='utf-8')
        device = (
            torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} threads'
        )
        processes = f'{self.world_size} processes, each on ' if self.world_size > 1 else ''
        self.logger.info(f'torch {torch.__version__}, {processes}{device}, seed {self.seed}; log: {self.log_dir}')


def build_runner(cfg: Config) -> Runner:
    """The runner of a config that :func:`densevit.engine.options.apply_options` has prepared.

    Raises:
        UserError: the processes cannot find each other as the launcher says.
    """
    cfg = copy.deepcopy(cfg)
    cfg.setdefault('experiment_name', f'{Path(cfg.work_dir).name}_{next(_RUNS)}')
    start_processes(cfg)
    runner = Runner.from_cfg(ConfigOfRun.of(cfg) if type(cfg) is Config else cfg)
    if torch.are_deterministic_algorithms_enabled() and torch.cuda.is_available():
        # some CUDA kernels (bilinear upsampling backward) have no deterministic version: warn by name, do not stop
        torch.use_deterministic_algorithms(True, warn_only=True)
    return runner
