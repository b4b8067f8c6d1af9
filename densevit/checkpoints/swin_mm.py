"""The parameter names of Swin in mmsegmentation and mmdetection, and ours.

Both have the same names (`mmseg/models/backbones/swin.py`, `mmdet/models/backbones/swin.py`). Their merging gathers the
four neighbours by ``nn.Unfold``, so its channels stand in another order than the official ones and ours.

Neither package has Swin V2. Files that name its parameters in their manner are of other packages, and nothing tells the
order of channels there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from torch import Tensor

from .errors import CheckpointError
from .names import BACKBONE, CLASSIFIER, NameTable, reads_whole
from .swin import HALLMARK, find

__all__ = ['from_mm', 'is_mm_v1', 'is_mm_v2', 'refuse_v2', 'to_mm']

_MM = NameTable(
    ('patch_embed.projection.*', 'backbone.patch_embed.proj.*'),
    ('patch_embed.*', 'backbone.patch_embed.*'),
    ('stages.{s}.blocks.{b}.attn.w_msa.*', 'backbone.layers.{s}.blocks.{b}.attn.*'),
    ('stages.{s}.blocks.{b}.ffn.layers.0.0.*', 'backbone.layers.{s}.blocks.{b}.mlp.fc1.*'),
    ('stages.{s}.blocks.{b}.ffn.layers.1.*', 'backbone.layers.{s}.blocks.{b}.mlp.fc2.*'),
    ('stages.*', 'backbone.layers.*'),
    ('norm{s}.*', 'backbone.norm{s}.*'),
)
_ATTENTION = 'stages.0.blocks.0.attn.w_msa.'
# Ours is upper left, lower left, upper right, lower right; theirs goes row by row. The exchange undoes itself.
_ROW_BY_ROW = [0, 2, 1, 3]


def is_mm_v1(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of mmsegmentation's and mmdetection's Swin, alone or in a whole model."""
    return find(names, _ATTENTION + HALLMARK[1]) is not None


def is_mm_v2(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of a Swin V2 in the manner of these packages."""
    return find(names, _ATTENTION + HALLMARK[2]) is not None


@reads_whole
def from_mm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By our names, with the merging's channels in our order."""
    return {
        # C channels of four neighbours -> four neighbours of C channels
        name: t.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., _ROW_BY_ROW, :].flatten(-2) if _merges(name) else t
        for name, t in _MM.to_ours(tensors).items()
    }


def to_mm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By their names, with the merging's channels in their order.

    All names of a backbone begin with ``backbone.``, also where it is alone: mmdetection loads no others. A
    classifier's norm and head are left out, as the packages have no place for them, and the position indices too, which
    they compute when they build a model.
    """
    renamed = {}
    for name, t in tensors.items():
        if _merges(name):
            t = t.unflatten(-1, (4, -1))[..., _ROW_BY_ROW, :].transpose(-1, -2).flatten(-2)
        if name.startswith(BACKBONE):
            renamed[BACKBONE + _MM.theirs(name)] = t
        elif not name.startswith(CLASSIFIER):
            renamed[name] = t
    return renamed


def _merges(name: str) -> bool:
    return name.startswith('backbone.layers.') and '.downsample.' in name


def refuse_v2(tensors: Mapping[str, Tensor]) -> NoReturn:
    """There is no Swin V2 to convert from."""
    raise CheckpointError(
        'neither mmsegmentation nor mmdetection has Swin V2, so nothing says what its names and the order of its '
        "channels are there; take the official weights, and type='densevit.SwinTransformerV2' in a config of theirs."
    )
