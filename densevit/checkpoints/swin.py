"""The official parameter names of Swin and Swin V2, and ours.

Official: https://github.com/microsoft/Swin-Transformer (commit f82860b), `models/swin_transformer.py` and
`swin_transformer_v2.py`: backbone, norm and head in one flat namespace. Ours: an :class:`densevit.ImageClassifier` of
``backbone``, ``pool`` and ``head``, whose backbone has the official names. The weights of a backbone alone therefore
have the same names in both, except for the norms of the maps; without the classifier's norm they count as ours.

The official segmentors and detectors (key ``state_dict``, backbone below ``backbone.``) have our names too, and tables
beside them that tell their origin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .names import BACKBONE, NameTable, reads_whole, writes_whole

__all__ = [
    'HALLMARK',
    'find',
    'from_official',
    'is_derived',
    'is_official_v1',
    'is_official_v2',
    'merges_early',
    'scales_as_columns',
    'scales_as_vectors',
    'to_official',
]

# Which parameter of an attention tells the versions apart.
HALLMARK = {1: 'relative_position_bias_table', 2: 'logit_scale'}

_OFFICIAL = NameTable(
    ('patch_embed.*', 'backbone.patch_embed.*'),
    ('layers.*', 'backbone.layers.*'),
    ('norm{s}.*', 'backbone.norm{s}.*'),  # of dense models
    ('norm.*', 'pool.norm.*'),  # of classifiers
)
_ATTENTION = 'layers.0.blocks.0.attn.'
_DERIVED = re.compile(r'.*\.(relative_position_index|relative_coords_table|attn_mask)')


def find(names: Mapping[str, Tensor], name: str) -> Tensor | None:
    """The tensor of a backbone's parameter, alone or in a whole model."""
    return names.get(name, names.get(BACKBONE + name))


def merges_early(names: Mapping[str, Tensor]) -> bool:
    """Whether patches are merged at the beginning of a stage, as in timm, and not at the end of the one before."""
    late, early = (find(names, f'layers.{stage}.downsample.reduction.weight') is not None for stage in (0, 1))
    return 'head.fc.weight' in names or (early and not late)


def is_official_v1(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of an official Swin, the classifier's or a dense one's."""
    if find(names, _ATTENTION + HALLMARK[1]) is None or merges_early(names):
        return False
    return 'norm.weight' in names or find(names, f'{_ATTENTION}relative_position_index') is not None


def is_official_v2(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of an official Swin V2, or its factors have the official shape (h, 1, 1)."""
    scale = find(names, _ATTENTION + HALLMARK[2])
    if scale is None or merges_early(names):
        return False
    return 'norm.weight' in names or scale.ndim == 3


def is_derived(name: str) -> bool:
    """Whether a tensor is a position index, a table of coordinates or a shift mask: computed when needed."""
    return bool(_DERIVED.fullmatch(name))


@reads_whole
def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By our names; the head's are the same."""
    return scales_as_vectors(_OFFICIAL.to_ours(tensors))


@writes_whole
def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the official names.

    Without the derived tables: a shift mask has the size of an image, which weights do not tell. The official code
    computes all of them when it builds a model, and drops those of a file (`utils.py`, ``load_pretrained``).
    """
    return _OFFICIAL.to_theirs(scales_as_columns(tensors))


def scales_as_vectors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Everybody's factors of Swin V2 in our shape: (h, 1, 1) -> (h,)."""
    return {name: t.flatten() if name.endswith('.logit_scale') else t for name, t in tensors.items()}


def scales_as_columns(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our factors in everybody's shape: (h,) -> (h, 1, 1)."""
    return {name: t[:, None, None] if name.endswith('.logit_scale') else t for name, t in tensors.items()}
