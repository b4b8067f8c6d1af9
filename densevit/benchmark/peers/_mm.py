"""mmsegmentation's and mmdetection's models: backbones, and whole segmentors and detectors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS, DefaultScope
from torch import nn

from ...checkpoints import export_weights
from ..models import Spec, dicts, is_twin, make
from ..plain_patchconvnet import plain_patchconvnet
from .base import Absent, Peer, exported, family, load, numbers_of, with_official_eps

__all__ = ['mm_backbones', 'mm_whole']

_DERIVED = r'relative_position_index'
_PVT = ('PyramidVisionTransformer', 'PyramidVisionTransformerV2')
# options that only our parts have
_OURS = ('winograd',)


def backbone_config(package: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The package's own backbone for a config of ours."""
    name, numbers = family(config), numbers_of(config)
    common = dict(out_indices=tuple(config.get('out_indices', (0, 1, 2, 3))), drop_path_rate=0.0)
    common['drop_path_rate'] = config.get('drop_path_rate', 0.0)
    depths, heads = tuple(numbers['depths']), tuple(numbers['num_heads'])
    if name == 'SwinTransformer':
        return dict(
            type=f'{package}.SwinTransformer', embed_dims=numbers['embed_dims'], depths=depths, num_heads=heads,
            window_size=config.get('window_size', 7), mlp_ratio=int(numbers['mlp_ratio']), **common,
        )  # fmt: skip
    if name in _PVT and package == 'mmdet':
        first = numbers['embed_dims'][0] // heads[0]
        if any(width != first * count for width, count in zip(numbers['embed_dims'], heads, strict=True)):
            raise Absent(f'mmdet.{name} has equally wide heads; this arch has not.')
        if numbers.get('linear'):
            raise Absent('its PVT v2 has no linear attention.')
        options = {} if name.endswith('V2') else {'pretrain_img_size': config.get('img_size', 224)}
        return dict(
            type=f'mmdet.{name}', embed_dims=first, num_layers=depths, num_heads=heads,
            mlp_ratios=tuple(numbers['mlp_ratios']), sr_ratios=tuple(numbers['sr_ratios']), **common, **options,
        )  # fmt: skip
    raise Absent(f'{package} has no {name}.')


def mm_backbones(package: str, config: Mapping[str, Any], model: nn.Module) -> list[Peer]:
    """One peer: there are no flags."""
    with DefaultScope.overwrite_default_scope(package):
        peer = MODELS.build(backbone_config_checked(package, config))
    load(peer, exported(model, 'mm'), _DERIVED)
    if family(config) in _PVT:
        with_official_eps(peer)
    return [Peer(package, peer, naming='mm', comparable_gradients=True)]


def backbone_config_checked(package: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config, or :class:`Absent` for a family whose arch has no ``depths``."""
    if family(config) not in ('SwinTransformer', *_PVT):
        raise Absent(f'it has no {family(config)}.')
    return backbone_config(package, config)


def mm_whole(package: str, spec: Spec, model: nn.Module) -> list[Peer]:
    """The config's model with nothing but the package's own parts, save necks that only we have."""
    if spec.scope != package:
        raise Absent(f'this is a config for {spec.scope}; compare it --against {spec.scope}.')
    config = copy.deepcopy(spec.config)
    ours = config['backbone']
    is_ours = str(ours['type']).startswith('densevit.')
    note, plain, naming = '', family(ours) == 'PatchConvNet', 'mm'
    for part in dicts(config):
        name = str(part.get('type', ''))
        own = name.removeprefix('densevit.')
        if name.startswith('densevit.') and is_twin(own):
            part['type'] = f'{package}.{own}'
            for option in _OURS:
                part.pop(option, None)
    if is_ours and not plain:
        config['backbone'] = backbone_config_checked(package, ours)
    peer = make(Spec(spec.name, config, package))
    tensors = model.state_dict()
    if plain:
        options = {key: ours[key] for key in ('out_indices', 'drop_path_rate') if key in ours}
        peer.backbone = plain_patchconvnet(ours.get('arch', 'S60'), **options)
        note, naming = 'with a plain trunk', None
        tensors = dict(tensors)
    elif is_ours:
        tensors = export_weights(model, 'mm')
        if family(ours) in _PVT:
            with_official_eps(peer.backbone)
    load(peer, tensors, _DERIVED)
    return [Peer(package, peer, note, naming=naming if is_ours else None, comparable_gradients=not plain)]
