"""The same model in other packages, with the same weights: what a user could run instead.

A module here stands for a package and has ``backbones(spec, model, size)``, which returns one :class:`Peer` for each
set of flags worth trying; the mm packages also have ``whole(spec, model)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from torch import Tensor, nn

from ...checkpoints import export_weights
from ...errors import UserError, did_you_mean
from ..models import Spec
from .base import Absent, Peer

__all__ = ['PACKAGES', 'Peer', 'gradient_names', 'peers_of']

# By the name that --against takes: what to install.
PACKAGES = {
    'mmseg': 'onedl-mmsegmentation',
    'mmdet': 'onedl-mmdetection',
    'timm': 'timm',
    'transformers': 'transformers',
    'torchvision': 'torchvision',
    'plain': '',
}


def peers_of(package: str, spec: Spec, model: nn.Module, size: tuple[int, int]) -> list[Peer]:
    """The model in another package, once for each set of flags, in eval mode.

    Args:
        package: a key of ``PACKAGES``; ``'plain'`` is code of this package that follows a paper's.
        spec: what the model was built from.
        model: ours, whose weights the peers get.
        size: of the images; some packages build for one size.

    Raises:
        UserError: the package is unknown or not installed, or does not have the model.
    """
    if package not in PACKAGES:
        raise UserError(
            f'--against {package!r} is unknown{did_you_mean(package, PACKAGES) or "."} Valid are {", ".join(PACKAGES)}.'
        )
    try:
        module = import_module(f'{__name__}.{package}')
        if spec.kind == 'backbone':
            found = module.backbones(spec.config, model, size)
        elif hasattr(module, 'whole'):
            found = module.whole(spec, model)
        else:
            raise Absent(f'{package} has no whole {spec.kind}s to compare with; compare its backbone.')
    except ModuleNotFoundError as error:
        missing = (error.name or '').partition('.')[0]
        if missing in ('', 'densevit'):
            raise
        install = PACKAGES[package] if missing == package else missing
        raise UserError(
            f'--against {package} needs a package that is not installed: `pip install {install}`.'
        ) from error
    except Absent as error:
        raise UserError(f'--against {package}: {error}') from error
    for peer in found:
        peer.model.eval()
    return found


def gradient_names(gradients: Mapping[str, Tensor], peer: Peer) -> dict[str, Tensor]:
    """Our gradients by a peer's names: a gradient is renamed and turned as its parameter is."""
    if peer.naming is None:
        return dict(gradients)
    loss = gradients['loss']
    tensors = {name: tensor for name, tensor in gradients.items() if name != 'loss'}
    theirs = export_weights(tensors, peer.naming)
    whole = any(name.startswith('backbone.') for name in tensors)
    if not whole:
        theirs = {name.removeprefix('backbone.'): tensor for name, tensor in theirs.items()}
    return {'loss': loss, **theirs}
