"""PatchConvNet's official parameter names and ours.

Official: `facebookresearch/deit` (commit 7e160fe), `patchconvnet_models.py`: trunk, aggregation and head in one flat
namespace. Nobody else has the family. Ours: an :class:`densevit.ImageClassifier` of ``backbone``, ``pool`` and
``head``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .names import NameTable, of_backbone, reads_whole, writes_whole

__all__ = ['from_official', 'is_official', 'to_official']

# (official, ours). The official blocks call their convolutions `attn.qkv_pos`, though nothing in them attends.
_OFFICIAL = NameTable(
    # a Sequential in which every other entry is a GELU
    ('patch_embed.proj.{2k}.0.*', 'backbone.patch_embed.convs.{k}.*'),
    ('blocks.{b}.norm1.*', 'backbone.blocks.{b}.norm.*'),
    ('blocks.{b}.attn.qkv_pos.0.*', 'backbone.blocks.{b}.conv_in.*'),
    ('blocks.{b}.attn.qkv_pos.2.*', 'backbone.blocks.{b}.conv_depthwise.*'),
    ('blocks.{b}.attn.qkv_pos.4.conv_reduce.*', 'backbone.blocks.{b}.squeeze_excite.reduce.*'),
    ('blocks.{b}.attn.qkv_pos.4.conv_expand.*', 'backbone.blocks.{b}.squeeze_excite.expand.*'),
    ('blocks.{b}.attn.qkv_pos.5.*', 'backbone.blocks.{b}.conv_out.*'),
    ('blocks.{b}.gamma_1', 'backbone.blocks.{b}.gamma'),
    ('cls_token', 'pool.cls_token'),
    ('norm.*', 'pool.norm.*'),
    ('blocks_token_only.0.*', 'pool.*'),
)
_POINTWISE = re.compile(r'backbone\..+\.(conv_in|conv_out|squeeze_excite\.(reduce|expand))\.weight')
_HEAD = re.compile(r'head\.(weight|bias)')
_CLASS_HEAD = re.compile(r'head\.(\d+)\.(weight|bias)')  # multi: one Linear(C, 1) per class


def is_official(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of an official PatchConvNet."""
    return 'blocks.0.attn.qkv_pos.0.weight' in of_backbone(names)


@reads_whole
def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape official tensors; the head's names are the same, but those of *multi* become one matrix."""
    renamed: dict[str, Tensor] = {}
    class_heads: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _CLASS_HEAD.fullmatch(name):
            class_heads.setdefault(match[2], {})[int(match[1])] = tensor
            continue
        ours = _OFFICIAL.ours(name)
        # our 1 x 1 convolutions are linear layers: (C_out, C_in, 1, 1) -> (C_out, C_in)
        renamed[ours] = tensor.flatten(1) if _POINTWISE.fullmatch(ours) and tensor.ndim == 4 else tensor
    for kind, heads in class_heads.items():
        renamed[f'head.{kind}'] = torch.cat([heads[index] for index in sorted(heads)])
    return renamed


@writes_whole
def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names and shapes to the official ones."""
    queries = tensors.get('pool.cls_token')
    is_multi = queries is not None and queries.shape[1] > 1  # (1, K, C)
    official: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if is_multi and (match := _HEAD.fullmatch(name)):
            # (K, C) or (K,) -> K times (1, C) or (1,)
            official |= {f'head.{k}.{match[1]}': part for k, part in enumerate(tensor.split(1))}
        else:
            tensor = tensor[:, :, None, None] if _POINTWISE.fullmatch(name) else tensor
            official[_OFFICIAL.theirs(name)] = tensor
    return official
