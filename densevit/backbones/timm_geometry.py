"""What a model of timm does with the size of an image, found out by running it on the meta device."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from timm.models import group_parameters
from torch import Tensor, nn

from ..errors import did_you_mean

__all__ = ['Geometry', 'build_timm', 'create', 'geometry_of', 'pad', 'recompute', 'resized_table', 'taps']

# Why a model is refused whose maps would have the right sizes or fail without a reason; by its class in timm.
_REFUSED = {
    'CrossVit': 'it resizes every image to the size that it was trained on, so its maps are not those of the image',
    'ConVit': 'its position attention has one table, for square images of one size',
    'LevitDistilled': 'its attention biases are tables for one size of image, which nothing resamples truly',
    'Levit': 'its attention biases are tables for one size of image, which nothing resamples truly',
    'TNT': 'its inner and outer position tables are for one size of image',
}
# The same by a layer that some member of a mixed family has.
_REFUSED_LAYERS = {
    'HaloAttn': 'its halo attention takes maps that blocks of 8 fill alone, and counts the zeros around them as keys',
    'BottleneckAttn': 'the tables of its relative positions are for one size of image',
}
# Arguments with which timm's models take any size; the first that a class knows and that make it do so.
_ANY_SIZE = ({'dynamic_img_size': True, 'dynamic_img_pad': True}, {'strict_img_size': False}, {})
# Position tables for one size that are resampled here: class, and how the table lies, tokens or map.
_RESAMPLED = {'Cait': 'NLC', 'PoolingVisionTransformer': 'NCHW'}
# PiT's patches are 16 pixels wide and 8 apart (14 and 7 in the largest): with 4 pixels around the image the centre of
# each is that of a cell of a grid of stride 8 (7: to half a pixel), and there are as many; timm has a row fewer.
_AROUND = {'PoolingVisionTransformer': 4}


@dataclass(frozen=True)
class Geometry:
    """How a model of timm is built and fed. Tuples are aligned with all maps that it has, fine to coarse.

    Attributes:
        arguments: of ``timm.create_model``.
        channels: of each map.
        strides: of each map, in pixels.
        divisor: height and width are padded to multiples of it.
        around: pixels of padding on all sides.
        resampled: how its position table lies in memory, where that is resampled.
        stem: the parameters of the stem.
        needs: by map, the parameters that it depends on.
    """

    arguments: Mapping[str, Any]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    divisor: int = 1
    around: int = 0
    resampled: str | None = None
    stem: frozenset[str] = frozenset()
    needs: tuple[frozenset[str], ...] = ()

    @property
    def is_column(self) -> bool:
        """Whether all maps have one stride."""
        return len(set(self.strides)) == 1

    @property
    def default_indices(self) -> tuple[int, ...]:
        """Of a column four blocks, as XCiT's dense models tap it; of a hierarchy the maps from stride 4 on."""
        depth = len(self.strides)
        if self.is_column:
            return tuple(sorted({-(-depth * sixths // 6) - 1 for sixths in (2, 3, 4, 6)}))
        coarse = tuple(index for index, stride in enumerate(self.strides) if stride >= 4)
        return coarse[-4:]


def pad(x: Tensor, divisor: int, around: int) -> Tensor:
    """Zeros ``around`` on all sides, and below and right of it up to a multiple of ``divisor``: (B, C, H, W)."""
    bottom, right = (-side % divisor for side in x.shape[-2:])
    if not (around or bottom or right):
        return x
    return F.pad(x, (around, right + around, around, bottom + around))


def create(
    model_name: str, arguments: Mapping[str, Any], *, num_classes: int = 0, pretrained: bool = False
) -> nn.Module:
    """timm's model, without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return timm.create_model(model_name, pretrained=pretrained, num_classes=num_classes, **arguments)


def build_timm(model_name: str, geometry: Geometry, indices: Sequence[int]) -> nn.Module:
    """timm's model up to the last of the maps ``indices``; parameters that no map needs are frozen."""
    model = create(model_name, geometry.arguments)
    _prepare(model)
    model.prune_intermediate_layers(list(indices), prune_norm=True, prune_head=True)
    needed = frozenset().union(*(geometry.needs[index] for index in indices))
    known = needed.union(*geometry.needs)
    for name, parameter in list(model.named_parameters()):
        if parameter.requires_grad and '.' not in name and name not in known:
            setattr(model, name, None)  # a class token that joins behind the last map
        else:
            parameter.requires_grad_(name in needed)
    return model


def recompute(model_name: str, model: nn.Module, geometry: Geometry, indices: Sequence[int]) -> None:
    """Let a model recompute its blocks in the backward pass.

    Raises:
        ValueError: timm's cannot, or does not on the way that makes maps.
    """
    with torch.device('meta'):
        twin = build_timm(model_name, geometry, indices).train()
    kept = [_kept(twin, geometry, indices)]
    try:
        for each in (twin, model):
            each.set_grad_checkpointing(True)
        kept.append(_kept(twin, geometry, indices))
    except AssertionError:  # timm's way to say that it has none
        kept.append(kept[0])
    if kept[1] >= kept[0]:
        raise ValueError(f'with_cp=True: timm {timm.__version__} recomputes nothing of {model_name!r}; leave it out.')


def _kept(model: nn.Module, geometry: Geometry, indices: Sequence[int]) -> int:
    """How many numbers a model on the meta device keeps for the backward pass of one image."""
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    side = 2 * max(geometry.strides)
    x = torch.empty(2, geometry.arguments['in_chans'], side, side, device='meta')
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        taps(model, pad(x, geometry.divisor, geometry.around), geometry.resampled, indices)
    return sum(sizes)


def geometry_of(model_name: str, model_args: Mapping[str, Any]) -> Geometry:
    """Look at a model.

    Raises:
        ValueError: timm has none of this name, or its maps cannot be trusted.
    """
    frozen = tuple(
        sorted((key, tuple(value) if isinstance(value, list) else value) for key, value in model_args.items())
    )
    return _geometry_of(model_name, frozen)


@lru_cache(maxsize=64)
def _geometry_of(model_name: str, model_args: tuple[tuple[str, Any], ...]) -> Geometry:
    if not isinstance(model_name, str) or not timm.is_model(model_name):
        raise ValueError(
            f'timm {timm.__version__} has no model {model_name!r}'
            f'{did_you_mean(str(model_name).partition(".")[0], timm.list_models()) or "."}'
        )
    reasons: list[str] = []
    for extra in _ANY_SIZE:
        arguments = {**dict(model_args), **extra}
        try:
            with torch.device('meta'):
                model = create(model_name, arguments).eval()
        except TypeError as error:
            if not extra:
                raise ValueError(f'timm cannot build {model_name!r}: {error}') from error
            continue  # an argument that this class does not know
        if reason := refusal_of(model):
            raise ValueError(f'{model_name!r} of timm cannot be a backbone: {reason}.')
        if found := _explore(model, arguments, reasons):
            return found
    raise ValueError(
        f'{model_name!r} of timm {timm.__version__} cannot be a backbone: {reasons[-1] if reasons else "no map"}.'
    )


def refusal_of(model: nn.Module) -> str | None:
    """Why a model is refused whatever its maps look like, or None."""
    if reason := _REFUSED.get(type(model).__name__):
        return reason
    layers = {type(module).__name__ for module in model.modules()}
    return next((reason for layer, reason in _REFUSED_LAYERS.items() if layer in layers), None)


def _prepare(model: nn.Module) -> None:
    """Let a model return maps where it is called, for images of any size that its position table is resampled to."""
    model.forward = partial(model.forward_intermediates, output_fmt='NCHW', intermediates_only=True)
    if type(model).__name__ in _RESAMPLED and hasattr(model.patch_embed, 'strict_img_size'):
        model.patch_embed.strict_img_size = False


def _explore(model: nn.Module, arguments: Mapping[str, Any], reasons: list[str]) -> Geometry | None:
    """The geometry of a model on the meta device; where there is none, ``reasons`` gets one more."""
    if not hasattr(model, 'forward_intermediates') or not getattr(model, 'feature_info', None):
        reasons.append('it has no forward_intermediates')
        return None
    _prepare(model)
    name = type(model).__name__
    strides = tuple(info['reduction'] for info in model.feature_info)
    around, resampled = _AROUND.get(name, 0), _RESAMPLED.get(name)
    channels = arguments.get('in_chans', 3)
    for divisor in sorted({1, min(strides), max(strides)}):
        try:
            sizes = [(5 * max(strides) + 3, 2 * max(strides) + 1), (3 * max(strides), 4 * max(strides) - 1)]
            for size in sizes:
                x = torch.empty(2, channels, *size, device='meta')
                maps = taps(model, pad(x, divisor, around), resampled)
                _check_maps(maps, strides, size, divisor)
        except Exception as error:  # whatever a model has against a size
            reasons.append(f'at {size[0]} x {size[1]} pixels: {str(error) or type(error).__name__}'.rstrip('.'))
            continue
        widths = tuple(m.shape[1] for m in maps)
        return Geometry(arguments, widths, strides, divisor, around, resampled, _stem(model), _needs(model, maps))
    return None


def _stem(model: nn.Module) -> frozenset[str]:
    """The parameters of what comes before the first block."""
    try:
        matcher = model.group_matcher(coarse=True)
    except (AttributeError, AssertionError):  # there is none, or none by stage
        pass
    else:
        return frozenset(name for name, group in group_parameters(model, matcher, reverse=True).items() if group == 0)
    names = (name for name, _ in model.named_parameters())
    return frozenset(name for name in names if name.startswith(('patch_embed', 'pos_embed', 'cls_token')))


def _check_maps(maps: Sequence[Tensor], strides: Sequence[int], size: tuple[int, int], divisor: int) -> None:
    if len(maps) != len(strides):
        raise ValueError(f'{len(maps)} maps, and {len(strides)} strides')
    for m, stride in zip(maps, strides, strict=True):
        padded = [side + -side % divisor for side in size]
        expected = tuple(math.ceil(side / stride) for side in padded)
        if m.ndim != 4 or tuple(m.shape[2:]) != expected:
            raise ValueError(f'the map of stride {stride} is {tuple(m.shape[2:])}, and not {expected}')


def _needs(model: nn.Module, maps: Sequence[Tensor]) -> tuple[frozenset[str], ...]:
    """By map, the names of the parameters that it depends on; without those that timm keeps fixed."""
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = []
    for m in maps:
        gradients = torch.autograd.grad(m.sum(), list(named.values()), retain_graph=True, allow_unused=True)
        found.append(frozenset(name for name, gradient in zip(named, gradients, strict=True) if gradient is not None))
    return tuple(found)


def taps(
    model: nn.Module, x: Tensor, resampled: str | None = None, indices: Sequence[int] | None = None
) -> list[Tensor]:
    """The maps ``indices`` of a model, all where None; its position table is resampled where ``resampled`` says so."""
    asked = {'indices': None if indices is None else list(indices)}
    if not resampled:
        return model(x, **asked)
    table = _resampled(model, x.shape[-2:], resampled)
    return torch.func.functional_call(model, {'pos_embed': table}, (x,), asked)


def _resampled(model: nn.Module, size: Sequence[int], layout: str) -> Tensor:
    """The position table for an image of ``size``, by bicubic interpolation as timm does it for ViT."""
    table: Tensor = model.pos_embed
    if layout == 'NCHW':  # PiT
        patch, stride = model.patch_embed.conv.kernel_size[0], model.patch_embed.conv.stride[0]
        rows, columns = ((side - patch) // stride + 1 for side in size)
        if table.shape[2:] == (rows, columns):
            return table
        return _interpolate(table, (rows, columns))
    rows, columns = model.patch_embed.dynamic_feat_size(tuple(size))
    before = model.patch_embed.grid_size
    if before == (rows, columns):
        return table
    return resample_abs_pos_embed(table, [rows, columns], list(before), num_prefix_tokens=0)


def resized_table(model: nn.Module, table: Tensor, shape: Sequence[int]) -> Tensor | None:
    """A position table for another size of image in the ``shape`` that a model has; None where it is no such table."""
    if table.ndim == 4 and table.shape[1] == shape[1]:
        return _interpolate(table, tuple(shape[2:]))
    if table.ndim != 3 or table.shape[2] != shape[2]:
        return None
    grid = model.patch_embed.grid_size
    prefix = shape[1] - math.prod(grid)  # class tokens that the table counts
    tokens = table.shape[1] - prefix
    if math.isqrt(tokens) ** 2 != tokens:
        return None  # of an image that was no square, whose sides nobody knows
    return resample_abs_pos_embed(table, list(grid), num_prefix_tokens=prefix)


def _interpolate(grid: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(grid.float(), size=size, mode='bicubic', antialias=True).to(grid.dtype)
