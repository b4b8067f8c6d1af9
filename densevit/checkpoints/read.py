"""Reading the tensors of a checkpoint file; no file can run code here."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import CheckpointError

__all__ = ['read_checkpoint', 'read_state_dict', 'unwrap']

# Under which key the known trainers keep the weights; an averaged copy wins, as it is the one that was evaluated.
_WRAPPERS = ('state_dict_ema', 'state_dict', 'model_ema', 'model')


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a ``.safetensors`` file or a torch file; see :func:`read_checkpoint`."""
    return unwrap(read_checkpoint(path), str(path))


def read_checkpoint(path: str | Path) -> Any:
    """All that a ``.safetensors`` file or a torch file holds, on the CPU.

    Torch files are read with ``weights_only``: a pickle that needs more than tensors, plain values, numpy arrays and
    mmengine's log buffers is refused.

    Raises:
        CheckpointError: no such file, not a checkpoint, or a file that would have to run code to be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f'checkpoint {str(path)!r} does not exist; give the path of a .pth or .safetensors file.')
    if path.suffix == '.safetensors':
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f'{str(path)!r} is not a whole safetensors file: {error}.') from error
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f'{str(path)!r} is refused: it is not a torch file of plain tensors and values, and reading it could run '
            f'code. Save its state dict alone, with torch.save(model.state_dict(), ...) or as safetensors.'
        ) from error
    except Exception as error:  # of a file that is something else, torch's reader can raise anything
        reason = str(error).partition('\n')[0]
        raise CheckpointError(f'{str(path)!r} cannot be read as a torch file, is it whole? ({reason})') from error


def _harmless() -> list[Any]:
    """What mmengine's checkpoints hold beside tensors: the log, numpy arrays in its own buffers, and a function.

    mmengine's own list (``mmengine.runner.checkpoint.get_torch_safe_globals``) has ``getattr`` in it, from which a
    file could reach much; here it gives the buffer's methods, the annealing functions of the one-cycle schedule,
    which are part of its state, and nothing else.
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

    kinds = (np.bool_, np.int32, np.int64, np.uint8, np.uint32, np.uint64, np.float16, np.float32, np.float64)
    dtypes = [type(np.dtype(kind)) for kind in kinds]
    arrays = []
    for function in (multiarray._reconstruct, multiarray.scalar):
        # numpy 1 wrote numpy.core, numpy 2 writes numpy._core
        arrays += [(function, f'numpy.{core}.multiarray.{function.__name__}') for core in ('core', '_core')]
    return [HistoryBuffer, OneCycleParamScheduler, np.ndarray, np.dtype, *dtypes, *arrays, (method, 'builtins.getattr')]


def unwrap(content: Any, where: str = 'the state dict') -> dict[str, Tensor]:
    """The tensors of a checkpoint as trainers nest it, without the ``module.`` of a distributed wrapper.

    Raises:
        CheckpointError: there is no mapping of names to tensors in it.
    """
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f'{where} holds no tensors by name, neither flat nor under {", ".join(_WRAPPERS)}.')
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if all(name.startswith('module.') for name in tensors):
        tensors = {name.removeprefix('module.'): value for name, value in tensors.items()}
    return tensors
