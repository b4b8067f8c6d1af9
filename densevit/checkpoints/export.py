"""The way back: weights by the names of another package, and files of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import did_you_mean
from .atomic import digest_file
from .errors import CheckpointError
from .names import BACKBONE
from .origins import DENSEVIT, ORIGINS, Origin, family_of, to_ours
from .read import read_state_dict, unwrap

__all__ = ['TARGETS', 'Export', 'convert_checkpoint', 'export_weights', 'save_state_dict']

# What weights can be converted to, each for some of the families.
TARGETS = tuple(dict.fromkeys((DENSEVIT, *(origin.key for origin in ORIGINS if origin.export))))
_SUFFIXES = ('.safetensors', '.pth', '.pt')


@dataclass(frozen=True)
class Export:
    """Tensors by the names of another package.

    Attributes:
        origin: whose names they had, ``'densevit'`` or the label of an :class:`Origin`.
        given: how many tensors there were.
        target: whose names they have now, in the same way.
        tensors: views of what was given, where that is possible.
        left_out: our names of what the target has no place for.
        shortened: our names of what the target has no place for in full.
    """

    origin: str
    given: int
    target: str
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...] = ()
    shortened: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f'from {self.origin}: {self.given} tensors', f'to {self.target}: {len(self.tensors)} tensors']
        for what, names in (('left out', self.left_out), ('shortened', self.shortened)):
            if names:
                lines.append(f'{what}, as there is no place for it: {", ".join(names)}')
        return '\n'.join(lines)


def export_weights(source: nn.Module | Mapping[str, Tensor], to: str) -> dict[str, Tensor]:
    """The weights of a backbone, a classifier, or a whole segmentor or detector by the names of another package.

    Args:
        source: a model of ours, or the state dict of one, or one that :func:`densevit.checkpoints.load_weights` would
            recognise.
        to: ``'official'``, ``'mm'`` for mmsegmentation and mmdetection, ``'timm'``, ``'transformers'`` or
            ``'densevit'``; not every family has every one.

    Returns:
        Names and tensors, views of the given ones where that is possible. What the target has no place for, such as a
        classifier's head in mmdetection, is left out.

    Raises:
        CheckpointError: nobody knows these names, or the family has no such naming.
    """
    return _export(source.state_dict() if isinstance(source, nn.Module) else unwrap(source), to).tensors


def convert_checkpoint(
    source: str | Path, out: str | Path, to: str, *, origin: str | None = None, force: bool = False
) -> Export:
    """Read a checkpoint, see :func:`densevit.checkpoints.read_state_dict`, convert it and write it.

    Args:
        source: path or URL of a .pth or .safetensors file.
        out: path of the file to write, of either kind.
        to: see :func:`export_weights`.
        origin: the label of the origin, where the names do not tell it.
        force: replace ``out`` if it exists.

    Raises:
        CheckpointError: the file cannot be read or converted, or ``out`` not be written.
    """
    _check_writable(Path(out), force)
    export = _export(read_state_dict(source), to, origin)
    save_state_dict(export.tensors, out, force=force)
    return export


def save_state_dict(tensors: Mapping[str, Tensor], path: str | Path, *, force: bool = False) -> None:
    """Write a state dict as a ``.safetensors`` file or, by ``torch.save``, as a ``.pth`` or ``.pt`` file.

    The file is written beside ``path`` and renamed: it is there whole or not at all. The folder is made where it is
    missing. A tensor that is a part of a larger one is written alone.

    Raises:
        CheckpointError: another suffix, a file that exists, without ``force``, or one that cannot be written.
    """
    path = Path(path)
    _check_writable(path, force)
    from safetensors import SafetensorError

    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(tensors, part, path.suffix)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(part, 0o666 & ~umask)  # safetensors makes private files
            digest_file(path).unlink(missing_ok=True)  # of the checkpoint that is overwritten
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's own, and safetensors', of a full disk
        reason = str(error).partition('\n')[0]
        raise CheckpointError(f'{str(path)!r} cannot be written: {reason}') from error


def _write(tensors: Mapping[str, Tensor], path: Path, suffix: str) -> None:
    alone, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(storage.data_ptr())
        alone[name] = tensor
    if suffix == '.safetensors':
        from safetensors.torch import save_file

        save_file(alone, path, metadata={'format': 'pt'})
    else:
        torch.save(alone, path)


def _export(tensors: Mapping[str, Tensor], to: str, origin: str | None = None) -> Export:
    given = to_ours(tensors, origin)
    ours = given.tensors
    family = next((known.family for known in ORIGINS if known.label == given.origin), None) or family_of(ours)
    if family is None:
        raise CheckpointError(
            f'these {len(tensors)} tensors ({", ".join(list(tensors)[:3])}, ...) have no names of a model that '
            'is known here: of PatchConvNet, PVT, Swin or CvT, official, of the mm packages, timm, transformers or '
            'torchvision.'
        )
    if to == DENSEVIT:
        return Export(given.origin, len(tensors), DENSEVIT, ours)
    target = _target(family, to)
    if not any(name.startswith(BACKBONE) for name in ours):
        ours = {BACKBONE + name: tensor for name, tensor in ours.items()}  # of a backbone alone
    theirs = target.export(ours)
    back = target.convert({name: tensor for name, tensor in theirs.items() if not target.is_derived(name)})
    return Export(
        given.origin,
        len(tensors),
        target.label,
        theirs,
        left_out=tuple(name for name in ours if name not in back),
        shortened=tuple(name for name in target.complete(back) if name in back),
    )


def _target(family: str, to: str) -> Origin:
    """Whose names ``to`` means for a family."""
    targets = {origin.key: origin for origin in ORIGINS if origin.family == family and origin.export}
    if to in targets:
        return targets[to]
    valid = f'valid are {", ".join([DENSEVIT, *targets])}'
    if to not in TARGETS:
        raise CheckpointError(f'to={to!r} is unknown{did_you_mean(to, TARGETS)}; for {family}, {valid}.')
    package = 'neither mmsegmentation nor mmdetection has' if to == 'mm' else f'{to} does not have'
    raise CheckpointError(f'there are no {to} names of {family}, as {package} it; {valid}.')


def _check_writable(path: Path, force: bool) -> None:
    if path.suffix not in _SUFFIXES:
        raise CheckpointError(f'{str(path)!r}: the name of a checkpoint must end with {", ".join(_SUFFIXES)}.')
    if path.is_dir() or (path.exists() and not force):
        raise CheckpointError(f'{str(path)!r} exists; give another name, or --force to replace a file.')
