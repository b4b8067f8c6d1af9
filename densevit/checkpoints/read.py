"""Reading the tensors of a checkpoint file; no file can run code here."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError

__all__ = ['read_state_dict', 'unwrap']

# Under which key the known trainers keep the weights; an averaged copy wins, as it is the one that was evaluated.
_WRAPPERS = ('state_dict_ema', 'state_dict', 'model_ema', 'model')


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a ``.safetensors`` file or a torch file.

    Torch files are read with ``weights_only``: a pickle that needs more than tensors and plain values is refused.

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
        content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f'{str(path)!r} is refused: it is not a torch file of plain tensors and values, and reading it could run '
            f'code. Save its state dict alone, with torch.save(model.state_dict(), ...) or as safetensors.'
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f'{str(path)!r} cannot be read as a torch file: {error}.') from error
    return unwrap(content, str(path))


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
