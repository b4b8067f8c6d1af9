"""Several processes: how those of a run find each other, stay alike, and end together."""

from __future__ import annotations

import atexit
import datetime
import os
import re
import sys
import time
from typing import NoReturn

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.dist import broadcast
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner as MMRunner
from torch import nn

from ..errors import UserError
from ..launched import NUMBERS, num_processes
from ..registry import HOOKS

__all__ = [
    'SameBuffersHook', 'claim_failure', 'distribute', 'failure_of_process', 'leave', 'start_processes',
    'stop_processes', 'unwrapped',
]  # fmt: skip

# Seconds that a process waits for another: longer than the first process scores a large data set, while others wait.
TIMEOUT = 1800
# By launcher: an environment variable that it sets, and the command.
_STARTED_BY = {
    'pytorch': ('LOCAL_RANK', 'torchrun'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'mpirun'),
}
# What gloo and NCCL say when another process has ended, and when it does not answer.
_ENDED = re.compile(
    r'Connection (closed|reset) by peer|Broken pipe|remote process exited|Connection refused|connection was likely '
    r'closed|recvBytes|sendBytes|failed to recv|Failed to recv',
)
_SILENT = re.compile(r'Timed out waiting (\d+)ms|Wait timeout|[Cc]ollective operation timeout|timed out after (\d+)')
_FAILED = 'densevit/failed'  # key of the processes' common store: who has failed first


# ------------------------------------------------------------------------------------------------------- starting
def distribute(cfg: Config, *, fsdp: bool = False, amp: bool = False) -> None:
    """Write into ``cfg`` how its processes work together: NCCL and SyncBN on GPUs, gloo and plain BN without any.

    Args:
        cfg: the config; ``launcher`` says who starts the processes.
        fsdp: shard weights, gradients and optimizer state, see :class:`densevit.FullyShardedModel`.
        amp: with ``fsdp``: gather the weights of the blocks in bfloat16.

    Raises:
        UserError: there is no such launcher around this process, or it cannot be used here.
    """
    if cfg.launcher == 'none':
        if fsdp:
            raise UserError('--fsdp divides the weights among processes: use it with --processes N, or with torchrun.')
        return
    variable, start = _STARTED_BY[cfg.launcher]
    if variable not in os.environ:
        raise UserError(f'--launcher {cfg.launcher} is for processes that {start} has started, and this one was not.')
    on_gpu = torch.cuda.is_available()
    if cfg.launcher != 'pytorch' and not on_gpu:
        raise UserError(f'--launcher {cfg.launcher} needs a GPU; on CPUs use torchrun and --launcher pytorch.')
    env = cfg.setdefault('env_cfg', ConfigDict())
    given = env.get('dist_cfg') or {}
    timeout = given.get('timeout', TIMEOUT)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout <= 0:
        raise UserError(f'env_cfg.dist_cfg.timeout={timeout!r}: give the seconds to wait for another process.')
    if not on_gpu:
        given = {**given, 'backend': 'gloo'}
    env.dist_cfg = ConfigDict({'backend': 'nccl', **given, 'timeout': timeout})
    if on_gpu:
        cfg.setdefault('sync_bn', 'torch')
    else:
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='densevit.SameBuffersHook')]
    if fsdp:
        cfg.model_wrapper_cfg = ConfigDict(type='densevit.FullyShardedModel', mixed_precision=amp)
    elif not on_gpu and (cfg.get('model_wrapper_cfg') or {}).get('type') != 'densevit.FullyShardedModel':
        # mmengine names a GPU for every process otherwise
        cfg.model_wrapper_cfg = ConfigDict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )


def start_processes(cfg: Config) -> None:
    """Make the processes of a run on CPUs known to each other; on GPUs mmengine does it.

    Raises:
        UserError: they did not all come.
    """
    if cfg.get('launcher') != 'pytorch' or torch.cuda.is_available() or dist.is_initialized():
        return
    timeout = cfg.env_cfg.dist_cfg.timeout
    try:
        # mmengine's own start-up sets a CUDA device even for gloo
        dist.init_process_group('gloo', timeout=datetime.timedelta(seconds=timeout))
    except (dist.DistError, RuntimeError) as error:
        raise UserError(
            f'the {num_processes(cfg)} processes of this run did not find each other within {timeout:g} s at '
            f'{os.environ.get("MASTER_ADDR")}:{os.environ.get("MASTER_PORT")}: {str(error).splitlines()[0]}'
        ) from error


def stop_processes(status: int) -> int:
    """Take leave of the other processes at the end of a run and end this one; without others return ``status``.

    The interpreter is not taken down: once a process was aborted at that point ("terminate called without an active
    exception"), as C++ does when a thread, here probably one of gloo's, is ended in the middle of it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return status
    is_alone = dist.get_world_size() == 1
    dist.destroy_process_group()
    if is_alone:
        return status
    atexit._run_exitfuncs()  # logs are closed, and workers that load data ended
    _end_at_once(status)


def leave(status: int) -> int:
    """End this process, which has failed, if it knows others; else return ``status``.

    Without what Python does at the end: the destructors of their connections wait for processes that are gone.
    """
    if dist.is_available() and dist.is_initialized():
        _end_at_once(status)
    return status


def _end_at_once(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without the wrapper that it has in a distributed run."""
    return model.module if is_model_wrapper(model) else model


# ------------------------------------------------------------------------------------------------- staying alike
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


# ------------------------------------------------------------------------------------------------------- failing
def failure_of_process(error: BaseException, mistake: str | None) -> tuple[str | None, bool]:
    """What to say of an error that ends one of several processes, and whether it is for this one to say it.

    When one fails, the others lose their connection to it, and each would say so.

    Args:
        error: what has been raised.
        mistake: what to say of it, where that is known.

    Returns:
        The message, None where there is nothing to say but the traceback; and whether this process is the first to
        fail.
    """
    lost = _lost(error) if mistake is None else None
    # the other's own words come first, if it has any; and those of who started the processes
    is_first = _fails_first(wait=1.0 if lost else 0.0)
    return f'{_name()}: {lost}' if lost else mistake, is_first


def _name() -> str:
    for rank, size in NUMBERS.values():
        if rank in os.environ and size in os.environ:
            return f'process {os.environ[rank]} of {os.environ[size]}'
    return 'this process'


def _lost(error: BaseException) -> str | None:
    """What to say of an error that another process's end or silence has caused; None: it is this one's own."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, RuntimeError):  # of gloo, and of NCCL, whose errors are subclasses
            if silent := _SILENT.search(str(link)):
                waited = next((int(each) / 1000 for each in silent.groups() if each), None)
                return (
                    f'another process has not answered{f" for {waited:g} s" if waited else ""}: it hangs, or it works '
                    'longer than env_cfg.dist_cfg.timeout allows; --resume goes on from the newest checkpoint.'
                )
            if _ENDED.search(str(link)):
                return (
                    'another process of this run has ended: look above for its message; without any it was killed, '
                    'by the system for want of memory or by somebody; --resume goes on from the newest checkpoint.'
                )
        link = link.__cause__ or link.__context__
    return None


def _fails_first(wait: float) -> bool:
    """Whether this process is the first of its run to fail: the one whose message is to be read.

    The processes share a store with the one that started them, which outlives them; where there is none (``srun``,
    ``mpirun``) every process speaks.

    Args:
        wait: seconds to let others come first, whose failure this one's may only follow.
    """
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True' or 'RANK' not in os.environ:
        return True
    time.sleep(wait)
    try:
        store = dist.TCPStore(
            os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']), timeout=datetime.timedelta(seconds=5)
        )
        return claim_failure(store, os.environ['RANK'])
    except (dist.DistError, RuntimeError, OSError):
        return True


def claim_failure(store: dist.Store, who: str) -> bool:
    """Write into a run's store who has failed, unless somebody stands there; return whether it is ``who``."""
    key = f'{_FAILED}/{os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")}'
    return store.compare_set(key, '', who) == who.encode()
