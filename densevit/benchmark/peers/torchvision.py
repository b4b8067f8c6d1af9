"""torchvision: Swin and Swin V2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

from ...layers import to_nchw
from .base import Absent, Maps, Peer, family, load, numbers_of, on_small_maps, output_norms

__all__ = ['backbones']


def backbones(config: Mapping[str, Any], model: nn.Module, size: tuple[int, int]) -> list[Peer]:
    """Its classifier without a head."""
    name = family(config)
    if name not in ('SwinTransformer', 'SwinTransformerV2'):
        raise Absent(f'torchvision has no {name}.')
    numbers, norms = numbers_of(config), output_norms(model)
    parts = dict(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2) if name.endswith('V2') else {}
    peer = SwinTransformer(
        patch_size=[4, 4], embed_dim=numbers['embed_dims'], depths=list(numbers['depths']),
        num_heads=list(numbers['num_heads']), window_size=[model.window_size] * 2, mlp_ratio=numbers['mlp_ratio'],
        stochastic_depth_prob=0.0, num_classes=1, **parts,
    )  # fmt: skip
    load(peer, _by_their_names(model.state_dict()), r'^norm\.|^head\.|relative_position_index|coords_table')
    return [Peer('torchvision', Maps(peer.features, _maps, norms), differs=on_small_maps(model, size))]


def _by_their_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stages and mergings alternate in one list behind the stem."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if re.match(r'norm\d', name):
            continue
        name = name.replace('patch_embed.proj', 'features.0.0').replace('patch_embed.norm', 'features.0.2')
        name = re.sub(r'layers\.(\d+)\.blocks', lambda match: f'features.{2 * int(match[1]) + 1}', name)
        name = re.sub(r'layers\.(\d+)\.downsample', lambda match: f'features.{2 * int(match[1]) + 2}', name)
        name = name.replace('mlp.fc1', 'mlp.0').replace('mlp.fc2', 'mlp.3')
        if name.endswith('logit_scale'):
            tensor = tensor.reshape(-1, 1, 1)
        if name.endswith('v_bias'):
            continue
        if name.endswith('q_bias'):
            values = tensors[_ours(name)]
            tensor = torch.cat([tensor, torch.zeros_like(tensor), values])
            name = name.replace('q_bias', 'qkv.bias')
        theirs[name] = tensor
    return theirs


def _ours(name: str) -> str:
    """Our name of the values' bias that belongs to this bias of queries."""
    stage = re.sub(r'features\.(\d+)', lambda match: f'layers.{int(match[1]) // 2}.blocks', name)
    return stage.replace('q_bias', 'v_bias')


def _maps(features: nn.Module, x: Tensor, norms: nn.ModuleList) -> tuple[Tensor, ...]:
    maps: list[Tensor] = []
    for index, layer in enumerate(features):
        x = layer(x)  # (B, H, W, C)
        if index % 2:
            maps.append(to_nchw(norms[len(maps)](x)).contiguous())
    return tuple(maps)
