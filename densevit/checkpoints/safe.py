"""Torch files, read so that nothing in them runs.

A torch file is a pickle, and a pickle can call anything. With ``weights_only`` torch's own unpickler calls nothing but
what is on a list; here that list is as short as mmengine's checkpoints allow.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch

from .errors import CheckpointError

__all__ = ['guard', 'load_torch_file']

_torch_load = torch.load
# Whether the tool that runs in this process was given --trust-checkpoint.
_trusted = False


def load_torch_file(file: Any, *args: Any, trust: bool = False, name: str | None = None, **options: Any) -> Any:
    """``torch.load`` with ``weights_only``, whatever the environment says; mmengine's checkpoints are read too.

    Args:
        file: path, or an open file.
        args: of ``torch.load``.
        trust: run what the file asks to run.
        name: what a message calls it.
        options: of ``torch.load``.

    Raises:
        CheckpointError: the file would have to run code; the errors of a broken file are torch's own.
    """
    trust = trust or _trusted
    try:
        with _only_harmless():
            return _torch_load(file, *args, weights_only=not trust, **options)
    except pickle.UnpicklingError as error:
        if trust:
            raise
        name = name or repr(str(getattr(file, 'name', file)))
        asks = re.search(r'GLOBAL (\S+)', str(error))
        head = _head(file)
        if head[8:9] == b'{':
            raise CheckpointError(
                f'{name} is a safetensors file by another name; rename it to .safetensors.'
            ) from error
        if head.startswith(b'version '):
            raise CheckpointError(
                f'{name} is no checkpoint: it stands in for a file of Git LFS; get the file itself: git lfs pull.'
            ) from error
        if head.startswith(_OTHERS):
            raise CheckpointError(
                f'{name} is no checkpoint: it begins with {head!r}; download or copy it anew.'
            ) from error
        raise CheckpointError(
            f'{name} is refused, since reading it could run code: it is no torch file of plain tensors and values'
            f'{f" but asks for {asks[1]}" if asks else ""}; save its state dict alone, as safetensors, or, if you '
            'trust whoever made it with this computer, use --trust-checkpoint (in Python trust=True).'
        ) from error


# What a web page, JSON, the pointer of git-lfs and a gzip archive begin with, and no pickle.
_OTHERS = (b'<', b'{', b'[', b'version ', b'\x1f\x8b')


def _head(file: Any) -> bytes:
    """The first bytes of a file, open or not."""
    if hasattr(file, 'seek'):
        file.seek(0)
        return file.read(9)
    with open(file, 'rb') as opened:
        return opened.read(9)


@contextmanager
def guard(trust: bool = False) -> Iterator[None]:
    """Within it all that calls ``torch.load`` gets :func:`load_torch_file`; for a tool of ours, while it runs.

    mmengine's loaders, which its hooks and the ``init_cfg`` of mm models use, read a file again with its code running
    when ``weights_only`` has refused it (``mmengine.runner.checkpoint._safe_torch_load``), or do what the environment
    variable ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`` says. All of them, torch.hub's and those of the original mmengine
    too, come down to the attribute ``torch.load``; so this one name is exchanged, and on the way out put back.

    Args:
        trust: let every file run code, those of :func:`load_torch_file` too.
    """
    global _trusted

    def load(file: Any, *args: Any, weights_only: bool | None = None, **options: Any) -> Any:
        return load_torch_file(file, *args, **options)

    before = torch.load, _trusted
    torch.load, _trusted = load, trust
    try:
        yield
    finally:
        torch.load, _trusted = before


@contextmanager
def _only_harmless() -> Iterator[None]:
    """Exchange what this process has allowed so far: mmengine adds the plain ``getattr``, which reaches far."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(_harmless())
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


@cache
def _harmless() -> list[Any]:
    """What checkpoints hold beside tensors: numpy arrays, a trainer's arguments, mmengine's log, and a function.

    mmengine needs ``getattr``; here it gives the methods of the log's buffers, the annealing functions of the one-cycle
    schedule, which are part of its state, and nothing else.
    """
    from mmengine.logging import HistoryBuffer
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
    from numpy._core import multiarray

    def method(owner: Any, name: str) -> Any:
        if not (
            (owner is HistoryBuffer and not name.startswith('_'))
            or (owner is OneCycleParamScheduler and name in ('_annealing_cos', '_annealing_linear'))
        ):
            raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r})')
        return getattr(owner, name)

    dtypes = [type(np.dtype(kind)) for kind in '?bBhHiIlLqQefdFDU']  # all but objects and records
    arrays = []
    for function in (multiarray._reconstruct, multiarray.scalar):
        # numpy 1 wrote numpy.core, numpy 2 writes numpy._core
        arrays += [(function, f'numpy.{core}.multiarray.{function.__name__}') for core in ('core', '_core')]
    classes = [HistoryBuffer, OneCycleParamScheduler, argparse.Namespace, np.ndarray, np.dtype]
    return [*classes, *dtypes, *arrays, (method, 'builtins.getattr')]
