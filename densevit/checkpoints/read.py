"""Reading the tensors of a checkpoint file; no file can run code here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .atomic import digest_file, is_damaged
from .download import is_url, local_file
from .errors import CheckpointError
from .safe import load_torch_file

__all__ = ['check_digest', 'read_checkpoint', 'read_state_dict', 'unwrap']

# Under which key the known trainers keep the weights; an averaged copy wins, as it is the one that was evaluated.
_WRAPPERS = ('state_dict_ema', 'state_dict', 'model_ema', 'model')


def read_state_dict(source: str | Path, *, trust: bool = False, sha256: str | None = None) -> dict[str, Tensor]:
    """The state dict in a ``.safetensors`` file or a torch file; see :func:`read_checkpoint`."""
    return unwrap(read_checkpoint(source, trust=trust, sha256=sha256), str(source))


def read_checkpoint(source: str | Path, *, trust: bool = False, sha256: str | None = None) -> Any:
    """All that a ``.safetensors`` file or a torch file holds, on the CPU.

    Torch files are read with ``weights_only``: a pickle that needs more than tensors, plain values, numpy arrays, a
    trainer's arguments and mmengine's log buffers is refused.

    Args:
        source: path, or URL; see :func:`densevit.checkpoints.download.local_file`.
        trust: run the code that a torch file asks to run. Only for files of people you trust with your computer.
        sha256: the file's hash, or its first 8 digits or more, to be verified.

    Raises:
        CheckpointError: no such file, another file than ``sha256`` or the hash beside it says, not a checkpoint, or a
            file that would have to run code to be read.
    """
    path = local_file(source, sha256=sha256)
    check_digest(path)
    name = f'{source!r}, kept at {path},' if is_url(source) else repr(str(path))
    if path.suffix == '.safetensors':
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f'{name} is not a whole safetensors file: {error}.') from error
    try:
        return load_torch_file(path, map_location='cpu', trust=trust, name=name)
    except CheckpointError:
        raise
    except Exception as error:  # of a file that is something else, torch's reader can raise anything
        reason = str(error).partition('. This is')[0].partition('\n')[0]
        if not path.stat().st_size:
            raise CheckpointError(f'{name} is empty; download or copy it anew.') from error
        raise CheckpointError(f'{name} cannot be read as a torch file, is it whole? ({reason})') from error


def check_digest(path: Path) -> bool:
    """Hold a file against the hash beside it, as training writes it; return whether there is one.

    Raises:
        CheckpointError: it has another.
    """
    damaged = is_damaged(path)
    if damaged:
        raise CheckpointError(
            f'{str(path)!r} is damaged: its SHA-256 is not the one in {digest_file(path).name}, which is to be deleted '
            'if you have changed the file yourself.'
        )
    return damaged is not None


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
