"""torchvision's parameter names of Swin and Swin V2 (`torchvision/models/swin_transformer.py`), and ours.

Stages and mergings alternate in one list behind the stem, ``features``. In Swin V2 the projection has a bias for the
keys, which every forward pass sets to zero; officially there is none.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .names import NameTable, reads_whole
from .swin import HALLMARK, find, scales_as_vectors

__all__ = ['from_torchvision_v1', 'from_torchvision_v2', 'is_torchvision_v1', 'is_torchvision_v2']

_STAGES = 8  # more than any model has
_TORCHVISION = NameTable(
    ('features.0.0.*', 'backbone.patch_embed.proj.*'),
    ('features.0.2.*', 'backbone.patch_embed.norm.*'),
    *(
        pair
        for stage in range(_STAGES)
        for pair in (
            (f'features.{2 * stage + 1}.{{b}}.mlp.0.*', f'backbone.layers.{stage}.blocks.{{b}}.mlp.fc1.*'),
            (f'features.{2 * stage + 1}.{{b}}.mlp.3.*', f'backbone.layers.{stage}.blocks.{{b}}.mlp.fc2.*'),
            (f'features.{2 * stage + 1}.*', f'backbone.layers.{stage}.blocks.*'),
            (f'features.{2 * stage + 2}.*', f'backbone.layers.{stage}.downsample.*'),
        )
    ),
    ('norm.*', 'pool.norm.*'),
)
_ATTENTION = 'features.1.0.attn.'


def is_torchvision_v1(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of torchvision's Swin."""
    return find(names, _ATTENTION + HALLMARK[1]) is not None


def is_torchvision_v2(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of torchvision's Swin V2."""
    return find(names, _ATTENTION + HALLMARK[2]) is not None


@reads_whole
def from_torchvision_v1(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By our names."""
    return _TORCHVISION.to_ours(tensors)


@reads_whole
def from_torchvision_v2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By our names, without a bias of the keys."""
    ours = {}
    for name, tensor in scales_as_vectors(_TORCHVISION.to_ours(tensors)).items():
        attention, is_bias, _ = name.partition('qkv.bias')
        if is_bias:
            ours[f'{attention}q_bias'], _, ours[f'{attention}v_bias'] = tensor.chunk(3)  # (3C,) -> three of (C,)
        else:
            ours[name] = tensor
    return ours
