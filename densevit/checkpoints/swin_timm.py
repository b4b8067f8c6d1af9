"""timm's parameter names of Swin and Swin V2 (timm 1.0, `swin_transformer.py` and `swin_transformer_v2.py`), and ours.

They are the official ones with two exceptions: patches are merged at the beginning of a stage instead of at the end of
the one before, and the head is ``head.fc``. What timm saved before it moved the merging has the official names.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .names import NameTable, reads_whole, writes_whole
from .swin import HALLMARK, find, merges_early, scales_as_columns, scales_as_vectors

__all__ = ['from_timm', 'is_timm_v1', 'is_timm_v2', 'to_timm']

_TIMM = NameTable(
    ('patch_embed.*', 'backbone.patch_embed.*'),
    ('layers.{s+1}.downsample.*', 'backbone.layers.{s}.downsample.*'),
    ('layers.*', 'backbone.layers.*'),
    ('norm.*', 'pool.norm.*'),
    ('head.fc.*', 'head.*'),
)
_ATTENTION = 'layers.0.blocks.0.attn.'


def is_timm_v1(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of timm's Swin."""
    return find(names, _ATTENTION + HALLMARK[1]) is not None and merges_early(names)


def is_timm_v2(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of timm's Swin V2."""
    return find(names, _ATTENTION + HALLMARK[2]) is not None and merges_early(names)


@reads_whole
def from_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By our names."""
    return scales_as_vectors(_TIMM.to_ours(tensors))


@writes_whole
def to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By timm's names, without the norms of a dense backbone's maps, which timm's models do not have."""
    tensors = {name: t for name, t in tensors.items() if not name.startswith('backbone.norm')}
    return _TIMM.to_theirs(scales_as_columns(tensors))
