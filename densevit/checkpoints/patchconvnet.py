"""PatchConvNet's official parameter names and ours.

Official: `facebookresearch/deit` (commit 7e160fe), `patchconvnet_models.py`: trunk, aggregation and head in one flat
namespace. Ours: an :class:`densevit.ImageClassifier` of ``backbone``, ``pool`` and ``head``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ['from_official', 'is_official']

# (official, ours). The official blocks call their convolutions `attn.qkv_pos`, though nothing in them attends.
_RENAMED = tuple(
    (re.compile(official), ours)
    for official, ours in (
        (r'blocks\.(\d+)\.gamma_1', r'backbone.blocks.\1.gamma'),
        (r'blocks\.(\d+)\.norm1\.(\w+)', r'backbone.blocks.\1.norm.\2'),
        (r'blocks\.(\d+)\.attn\.qkv_pos\.0\.(\w+)', r'backbone.blocks.\1.conv_in.\2'),
        (r'blocks\.(\d+)\.attn\.qkv_pos\.2\.(\w+)', r'backbone.blocks.\1.conv_depthwise.\2'),
        (r'blocks\.(\d+)\.attn\.qkv_pos\.4\.conv_(reduce|expand)\.(\w+)', r'backbone.blocks.\1.squeeze_excite.\2.\3'),
        (r'blocks\.(\d+)\.attn\.qkv_pos\.5\.(\w+)', r'backbone.blocks.\1.conv_out.\2'),
        (r'(cls_token)', r'pool.\1'),
        (r'blocks_token_only\.0\.(.+)', r'pool.\1'),
        (r'(norm\.\w+)', r'pool.\1'),
        (r'(head\.\w+)', r'\1'),
    )
)
_STEM = re.compile(r'patch_embed\.proj\.(\d+)\.0\.weight')  # a Sequential in which every other entry is a GELU
_CLASS_HEAD = re.compile(r'head\.(\d+)\.(weight|bias)')  # multi: one Linear(C, 1) per class
_POINTWISE = re.compile(r'.*\.(conv_in|conv_out|squeeze_excite\.(reduce|expand))\.weight')


def is_official(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of an official PatchConvNet."""
    return 'blocks.0.attn.qkv_pos.0.weight' in names


def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape official tensors to those of our classifier; an unknown name stays as it is."""
    renamed: dict[str, Tensor] = {}
    class_heads: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _CLASS_HEAD.fullmatch(name):
            class_heads.setdefault(match[2], {})[int(match[1])] = tensor
            continue
        ours = _rename(name)
        # our 1 x 1 convolutions are linear layers: (C_out, C_in, 1, 1) -> (C_out, C_in)
        renamed[ours] = tensor.flatten(1) if _POINTWISE.fullmatch(ours) and tensor.ndim == 4 else tensor
    for kind, heads in class_heads.items():
        renamed[f'head.{kind}'] = torch.cat([heads[index] for index in sorted(heads)])
    return renamed


def _rename(name: str) -> str:
    if match := _STEM.fullmatch(name):
        return f'backbone.patch_embed.convs.{int(match[1]) // 2}.weight'
    for official, ours in _RENAMED:
        if match := official.fullmatch(name):
            return match.expand(ours)
    return name
