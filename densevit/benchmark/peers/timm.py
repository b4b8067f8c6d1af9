"""timm: Swin, Swin V2 and PVT v2, with and without its fused attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from ...layers import to_nchw
from .base import Absent, Maps, Peer, exported, family, load, numbers_of, on_small_maps, output_norms

__all__ = ['backbones']


def backbones(config: Mapping[str, Any], model: nn.Module, size: tuple[int, int]) -> list[Peer]:
    """Swin twice, as its fused attention is off unless TIMM_FUSED_ATTN=2; Swin V2 has none, PVT v2 has it on."""
    name = family(config)
    if name == 'PyramidVisionTransformerV2':
        return [Peer('timm', _pvt_v2(config, model))]
    if name not in ('SwinTransformer', 'SwinTransformerV2'):
        raise Absent(f'timm has no {name}.')
    differs = ''
    if any(side % (model.window_size * stride) for side in size for stride in (4, 8, 16, 32)):
        differs = 'shifts before it pads, so its windows hold other tokens in maps that windows do not fill'
    if name == 'SwinTransformerV2':
        peer = _swin(SwinTransformerV2, config, model, size)
        return [Peer('timm', peer, differs=differs or on_small_maps(model, size))]
    peers = []
    for fused in (False, True):
        peer = _swin(SwinTransformer, config, model, size, always_partition=True)
        for module in peer.modules():
            if hasattr(module, 'fused_attn'):
                module.fused_attn = fused
        peers.append(Peer(f'timm, TIMM_FUSED_ATTN={2 if fused else 1}', peer, differs=differs))
    return peers


def _swin(
    cls: type[nn.Module], config: Mapping[str, Any], model: nn.Module, size: tuple[int, int], **options: Any
) -> nn.Module:
    numbers, norms = numbers_of(config), output_norms(model)
    if any(side % 32 for side in size):
        raise Absent(f'its Swin takes sides that are multiples of 32, not {size[0]}x{size[1]}.')
    peer = cls(
        img_size=size, embed_dim=numbers['embed_dims'], depths=tuple(numbers['depths']),
        num_heads=tuple(numbers['num_heads']), window_size=config.get('window_size', model.window_size),
        mlp_ratio=numbers['mlp_ratio'], drop_path_rate=0.0, num_classes=0, strict_img_size=False, **options,
    )  # fmt: skip
    load(peer, exported(model, 'timm'), r'^norm\.|index|table|mask')
    peer.norm = nn.Identity()  # of its classifier
    return Maps(peer, _swin_maps, norms)


def _swin_maps(peer: nn.Module, x: Tensor, norms: nn.ModuleList) -> tuple[Tensor, ...]:
    x, maps = peer.patch_embed(x), []
    for stage, norm in zip(peer.layers, norms, strict=True):
        x = stage(x)  # (B, H, W, C)
        maps.append(to_nchw(norm(x)).contiguous())
    return tuple(maps)


def _pvt_v2(config: Mapping[str, Any], model: nn.Module) -> nn.Module:
    numbers = numbers_of(config)
    peer = PyramidVisionTransformerV2(
        embed_dims=tuple(numbers['embed_dims']), depths=tuple(numbers['depths']), num_classes=0,
        num_heads=tuple(numbers['num_heads']), mlp_ratios=tuple(numbers['mlp_ratios']),
        sr_ratios=tuple(numbers['sr_ratios']), linear=numbers['linear'], drop_path_rate=0.0,
    )  # fmt: skip
    load(peer, exported(model, 'timm'))
    return Maps(peer, _pvt_v2_maps)


def _pvt_v2_maps(peer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x, maps = peer.patch_embed(x), []
    for stage in peer.stages:
        x = stage(x)
        maps.append(x)
    return tuple(maps)
