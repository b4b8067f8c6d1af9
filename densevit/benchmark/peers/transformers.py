"""transformers, the library of the Hugging Face Hub: all families but PatchConvNet."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from ...layers import to_nchw
from .base import Absent, Maps, Peer, exported, family, load, numbers_of, on_small_maps, output_norms, with_official_eps

__all__ = ['backbones']


def backbones(config: Mapping[str, Any], model: nn.Module, size: tuple[int, int]) -> list[Peer]:
    """Its backbone class where there is one, with torch's fused attention where it supports that: in Swin alone."""
    builders = {
        'SwinTransformer': _swin,
        'SwinTransformerV2': _swin_v2,
        'PyramidVisionTransformer': _pvt,
        'PyramidVisionTransformerV2': _pvt_v2,
        'CvT': _cvt,
    }
    if family(config) not in builders:
        raise Absent(f'transformers has no {family(config)}.')
    return builders[family(config)](config, model, size)


def _swin_options(config: Mapping[str, Any], model: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
    numbers = numbers_of(config)
    output_norms(model)  # all four maps
    return dict(
        image_size=size, embed_dim=numbers['embed_dims'], depths=list(numbers['depths']),
        num_heads=list(numbers['num_heads']), window_size=model.window_size, mlp_ratio=numbers['mlp_ratio'],
        drop_path_rate=0.0, out_indices=[1, 2, 3, 4],
    )  # fmt: skip


def _swin(config: Mapping[str, Any], model: nn.Module, size: tuple[int, int]) -> list[Peer]:
    settings = transformers.SwinConfig(**_swin_options(config, model, size))
    settings._attn_implementation = 'sdpa'
    peer = transformers.SwinBackbone(settings)
    load(peer, _in_memory(exported(model, 'transformers'), peer), r'^swin\.layernorm\.|relative_position_index')
    peer.swin.layernorm = nn.Identity()  # of its classifier; the backbone does not use it
    return [Peer('transformers, sdpa', Maps(peer, lambda peer, x: tuple(peer(x).feature_maps)))]


# transformers 5 has other names in memory than in files
_RENAMED = (
    ('attention.self.query.', 'attention.q_proj.'),
    ('attention.self.key.', 'attention.k_proj.'),
    ('attention.self.value.', 'attention.v_proj.'),
    ('attention.output.dense.', 'attention.o_proj.'),
    ('attention.self.relative_position_bias_table', 'attention.relative_position_bias.relative_position_bias_table'),
    ('intermediate.dense.', 'mlp.fc1.'),
    ('output.dense.', 'mlp.fc2.'),
)


def _in_memory(tensors: Mapping[str, Tensor], peer: nn.Module) -> dict[str, Tensor]:
    """Weights by the names of a file, by those of the model."""
    own, found = peer.state_dict(), {}
    for name, tensor in tensors.items():
        name = name if name.startswith('hidden_states_norms') else f'swin.{name}'
        if name not in own:
            for theirs, now in _RENAMED:
                name = name.replace(theirs, now)
        found[name] = tensor
    return found


def _without(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _swin_v2(config: Mapping[str, Any], model: nn.Module, size: tuple[int, int]) -> list[Peer]:
    options = _swin_options(config, model, size)
    pretrained = config.get('pretrained_window_sizes', 0)
    options['pretrained_window_sizes'] = [pretrained] * 4 if isinstance(pretrained, int) else list(pretrained)
    peer = transformers.Swinv2Backbone(transformers.Swinv2Config(**options))
    load(peer, exported(model, 'transformers'), r'relative_(position_index|coords_table)')

    def maps(peer: nn.Module, x: Tensor, norms: nn.ModuleList) -> tuple[Tensor, ...]:
        found = peer(x).feature_maps  # (B, C, H, W), views of (B, H, W, C)
        return tuple(to_nchw(norm(m.permute(0, 2, 3, 1))).contiguous() for norm, m in zip(norms, found, strict=True))

    return [Peer('transformers', Maps(peer, maps, output_norms(model)), differs=on_small_maps(model, size))]


def _pvt(config: Mapping[str, Any], model: nn.Module, size: tuple[int, int]) -> list[Peer]:
    numbers, side = numbers_of(config), config.get('img_size', 224)
    sides = (side, side) if isinstance(side, int) else tuple(side)
    if sides[0] != sides[1] or sides != tuple(size):
        raise Absent(f'its PVT takes square images of the size it is built for; give img_size={size[0]} and that size.')
    settings = transformers.PvtConfig(
        image_size=sides[0], depths=list(numbers['depths']), hidden_sizes=list(numbers['embed_dims']),
        num_attention_heads=list(numbers['num_heads']), mlp_ratios=list(numbers['mlp_ratios']),
        sequence_reduction_ratios=list(numbers['sr_ratios']), layer_norm_eps=1e-6, drop_path_rate=0.0,
    )  # fmt: skip
    peer = with_official_eps(transformers.PvtModel(settings))
    load(peer, _without(exported(model, 'transformers'), 'pvt.'), r'cls_token|encoder\.layer_norm')
    with torch.no_grad():
        for embeddings in peer.encoder.patch_embeddings:
            if embeddings.cls_token is not None:
                embeddings.cls_token.zero_()
    last = list(accumulate(numbers['depths']))  # block of each stage

    def maps(peer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        states = peer(x, output_hidden_states=True).hidden_states  # of every block
        grids = [(sides[0] // stride,) * 2 for stride in (4, 8, 16)]
        tokens = [states[index - 1] for index in last[:3]]
        return tuple(to_nchw(x.unflatten(1, grid)).contiguous() for x, grid in zip(tokens, grids, strict=True))

    note = 'its last map has the class token in it, so only the other three are compared'
    return [Peer('transformers', Maps(peer, maps), note, partial=True)]


def _pvt_v2(config: Mapping[str, Any], model: nn.Module, size: tuple[int, int]) -> list[Peer]:
    numbers = numbers_of(config)
    settings = transformers.PvtV2Config(
        image_size=size[0], depths=list(numbers['depths']), hidden_sizes=list(numbers['embed_dims']),
        num_attention_heads=list(numbers['num_heads']), mlp_ratios=list(numbers['mlp_ratios']),
        sr_ratios=list(numbers['sr_ratios']), layer_norm_eps=1e-6, linear_attention=numbers['linear'],
        drop_path_rate=0.0,
    )  # fmt: skip
    peer = with_official_eps(transformers.PvtV2Model(settings))
    load(peer, _without(exported(model, 'transformers'), 'pvt_v2.'))
    maps = lambda peer, x: tuple(peer(x, output_hidden_states=True).hidden_states)  # noqa: E731
    return [Peer('transformers', Maps(peer, maps))]


def _cvt(config: Mapping[str, Any], model: nn.Module, size: tuple[int, int]) -> list[Peer]:
    numbers = numbers_of(config)
    settings = transformers.CvtConfig(
        embed_dim=list(numbers['embed_dims']), depth=list(numbers['depths']), num_heads=list(numbers['num_heads']),
        drop_path_rate=[0.0] * 3,
    )  # fmt: skip
    peers = []
    for quick in (True, False):
        peer = transformers.CvtModel(settings)
        load(peer, _without(exported(model, 'transformers'), 'cvt.'))
        if quick:
            for stage in peer.encoder.stages:
                for layer in stage.layers:
                    layer.intermediate.activation = transformers.activations.QuickGELUActivation()
        maps = lambda peer, x: tuple(peer(x, output_hidden_states=True).hidden_states)  # noqa: E731
        peers.append(
            Peer('transformers, QuickGELU', Maps(peer, maps), 'with the official activation in the place of its own')
            if quick
            else Peer(
                'transformers, its GELU',
                Maps(peer, maps),
                differs='has another activation than the official code, whose weights it loads',
            )  # fmt: skip
        )
    return peers
