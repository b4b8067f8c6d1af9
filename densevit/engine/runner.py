"""Building the runner of a config: mmengine's, but a checkpoint loads whole or not at all."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import broadcast
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner as MMRunner
from mmengine.utils.dl_utils import collect_env
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoints import CheckpointError, LoadReport, load_weights, read_checkpoint
from ..data.loading import name_unreadable_files
from ..errors import UserError
from ..registry import HOOKS
from .noise import drop_noise

__all__ = ['Runner', 'SameBuffersHook', 'build_runner', 'check_channels', 'is_main_process']

# The runs of this process: mmengine keeps loggers and visualizers by name, and a second run would get the first's.
_RUNS = itertools.count()
# By launcher: the environment variable with a process's number.
_RANKS = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}

# Settings of a data loader that mean something with workers only.
_OF_WORKERS = ('persistent_workers', 'prefetch_factor', 'timeout')


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
        model = self.model.module if is_model_wrapper(self.model) else self.model
        return model.module if isinstance(model, BaseTTAModel) else model

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """mmengine's; whoever calls it, :meth:`load_checkpoint` knows that a whole state is asked for."""
        self._resume = True
        super().resume(filename, *args, **kwargs)

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
            model = self.model.module if is_model_wrapper(self.model) else self.model
            self.call_hook('after_load_checkpoint', checkpoint={'state_dict': model.state_dict()})
        self._has_loaded = True
        self.report = report
        self.logger.info(f'{filename}: {report}')
        return content

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """mmengine's; what a part has against its arguments is the config's mistake."""
        try:
            built = super().build_model(model)
            check_channels(built.module if isinstance(built, BaseTTAModel) else built)
            return built
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            inner: BaseException = error
            while inner.__context__ is not None and str(inner.__context__) in str(inner):  # wrapped by a builder
                inner = inner.__context__
            raise UserError(f'model: it cannot be built as the config says: {inner}') from error

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        drop_noise(logger)
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
        loader = MMRunner.build_dataloader(dataloader, *args, **kwargs)
        name_unreadable_files(loader.dataset)
        return loader

    def _log_env(self, env_cfg: dict) -> None:
        if self.rank == 0:
            lines = [f'{name}: {value}' for name, value in {**collect_env(), **env_cfg}.items()]
            Path(self.log_dir, 'environment.txt').write_text('\n'.join(lines) + '\n', encoding='utf-8')
        device = (
            torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} threads'
        )
        processes = f'{self.world_size} processes, each on ' if self.world_size > 1 else ''
        self.logger.info(f'torch {torch.__version__}, {processes}{device}, seed {self.seed}; log: {self.log_dir}')


@HOOKS.register_module()
class SameBuffersHook(Hook):
    """Gives all processes the first one's buffers before a validation.

    Without SyncBN each process counts its own running statistics. Each would score its share of the images with
    another model, and none of them with the one that is saved, which is the first's.
    """

    priority = 'VERY_HIGH'  # before an average of the weights takes their place

    def before_val_epoch(self, runner: MMRunner) -> None:
        """Send them around."""
        averages = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
        for model in (runner.model, *averages):
            for buffer in model.buffers():
                broadcast(buffer)


def build_runner(cfg: Config) -> Runner:
    """The runner of a config that :func:`densevit.engine.options.apply_options` has prepared.

    Raises:
        UserError: the processes cannot find each other as the launcher says.
    """
    cfg = copy.deepcopy(cfg)
    cfg.setdefault('experiment_name', f'{Path(cfg.work_dir).name}_{next(_RUNS)}')
    if cfg.get('launcher') == 'pytorch' and not torch.cuda.is_available() and not torch.distributed.is_initialized():
        # mmengine's own start-up sets a CUDA device even for gloo
        torch.distributed.init_process_group('gloo')
    runner = Runner.from_cfg(cfg)
    if torch.are_deterministic_algorithms_enabled() and torch.cuda.is_available():
        # some CUDA kernels (bilinear upsampling backward) have no deterministic version: warn by name, do not stop
        torch.use_deterministic_algorithms(True, warn_only=True)
    return runner


def is_main_process(cfg: Config) -> bool:
    """Whether this is the process that prints and writes; without a launcher every process is on its own.

    Read from the environment, since it is asked before the processes know each other.
    """
    return os.environ.get(_RANKS.get(cfg.get('launcher', 'none'), ''), '0') == '0'


def check_channels(model: nn.Module) -> None:
    """Hold the channels that neck or heads are built for against those that the backbone's maps have.

    Raises:
        UserError: they differ; torch would say so in the first convolution that notices, without a name.
    """
    maps = getattr(getattr(model, 'backbone', None), 'out_channels', None)
    if not isinstance(maps, Sequence):
        return
    neck = getattr(model, 'neck', None)
    first = neck[0] if isinstance(neck, nn.Sequential) else neck
    if first is not None:
        expected = getattr(first, 'in_channels', None)
        if isinstance(expected, Sequence) and list(expected) != list(maps):
            raise UserError(
                f'model.neck.in_channels={list(expected)}, but the maps of {type(model.backbone).__name__} have '
                f'{list(maps)} channels; write these.'
            )
        return
    for name in ('decode_head', 'auxiliary_head'):
        heads = getattr(model, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            expected, index = getattr(head, 'in_channels', None), getattr(head, 'in_index', None)
            several = isinstance(index, Sequence)
            # a head that concatenates its inputs counts their channels together
            if expected is None or index is None or (several and not isinstance(expected, Sequence)):
                continue
            indices, given = (list(index), list(expected)) if several else ([index], [expected])
            if max(indices) >= len(maps):
                raise UserError(f'model.{name}.in_index={index}, but the backbone returns {len(maps)} maps.')
            found = [maps[each] for each in indices]
            if given != found:
                raise UserError(
                    f'model.{name}.in_channels={expected}, but the maps {indices} of {type(model.backbone).__name__} '
                    f'have {found} channels; write these.'
                )
