"""What a model of timm does with the size of an image, found out by running it on the meta device."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import group_parameters
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import did_you_mean
from .timm_layers import mend
from .timm_reasons import reason_of
from .timm_tables import resampled_table

__all__ = ['Geometry', 'create', 'create_meta', 'geometry_of', 'pad', 'prepare', 'taps']

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
# Swin shifts its windows on every map with ``always_partition``, as its dense code; without it only on maps that are
# larger than a window in the image that it is built for.
_ANY_SIZE = (
    {'dynamic_img_size': True, 'dynamic_img_pad': True},
    {'strict_img_size': False, 'always_partition': True},
    {'strict_img_size': False},
    {},
)
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
        smallest: height and width are padded to at least that.
        resampled: how its position table lies in memory, where that is resampled.
        stem: the parameters of the stem.
        needs: by map, the parameters that it depends on.
    """

    arguments: Mapping[str, Any]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    divisor: int = 1
    around: int = 0
    smallest: int = 1
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


def pad(x: Tensor, divisor: int, around: int = 0, smallest: int = 1) -> Tensor:
    """Zeros ``around`` on all sides of (B, C, H, W), and below and right of it up to a multiple of ``divisor``.

    Args:
        x: images.
        divisor: of what height and width become, without ``around``.
        around: pixels.
        smallest: what height and width become at least, a multiple of ``divisor``.
    """
    bottom, right = (max(-side % divisor, smallest - side) for side in x.shape[-2:])
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


# Methods that give a tensor its first values.
_FILLING = {
    getattr(Tensor, name) for name in ('add_', 'clamp_', 'erfinv_', 'fill_', 'mul_', 'normal_', 'uniform_', 'zero_')
}


class _Unfilled(TorchFunctionMode):
    """Leaves out to fill tensors on the meta device: they have no values, and torch takes long to find that out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLING and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def create_meta(model_name: str, arguments: Mapping[str, Any], *, num_classes: int = 0) -> nn.Module:
    """timm's model on the meta device, to look at."""
    with torch.device('meta'), _Unfilled():
        return create(model_name, arguments, num_classes=num_classes)


@dataclass(frozen=True)
class _Asked:
    """A model that is looked at once; its arguments need not be hashable."""

    model_name: str
    shown: str
    arguments: Mapping[str, Any] = field(compare=False)


def geometry_of(model_name: str, model_args: Mapping[str, Any]) -> Geometry:
    """Look at a model.

    Raises:
        ValueError: timm has none of this name, cannot build it, or its maps cannot be trusted.
    """
    if not isinstance(model_name, str) or not timm.is_model(model_name):
        raise ValueError(
            f'timm {timm.__version__} has no model {model_name!r}'
            f'{did_you_mean(str(model_name).partition(".")[0], timm.list_models()) or "."}'
        )
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in sorted(model_args.items())}
    return _geometry_of(_Asked(model_name, repr(arguments), copy.deepcopy(arguments)))


@lru_cache(maxsize=64)
def _geometry_of(asked: _Asked) -> Geometry:
    reasons: list[str] = []
    # whatever the mode in which somebody builds a backbone
    with torch.inference_mode(False), torch.enable_grad():
        for extra in _ANY_SIZE:
            arguments = {**asked.arguments, **extra}
            try:
                model = create_meta(asked.model_name, arguments)
            except Exception as error:  # timm's models check their arguments in many ways
                if not extra:
                    reason = str(error) or type(error).__name__
                    raise ValueError(f'timm cannot build {asked.model_name!r}: {reason.rstrip(".")}.') from error
                continue  # most often an argument that this class does not know
            if reason := refusal_of(model):
                raise ValueError(f'{asked.model_name!r} of timm cannot be a backbone: {reason}.')
            if _drops_paths(model):  # Swin does by default
                arguments['drop_path_rate'] = 0.0
            if found := _explore(model.eval(), arguments, reasons):
                return found
    raise ValueError(
        f'{asked.model_name!r} of timm {timm.__version__} cannot be a backbone: {reasons[-1] if reasons else "no map"}.'
    )


def refusal_of(model: nn.Module) -> str | None:
    """Why a model is refused whatever its maps look like, or None."""
    if reason := _REFUSED.get(type(model).__name__):
        return reason
    layers = {type(module).__name__ for module in model.modules()}
    return next((reason for layer, reason in _REFUSED_LAYERS.items() if layer in layers), None)


def _drops_paths(model: nn.Module) -> bool:
    return any(isinstance(module, DropPath) and module.drop_prob for module in model.modules())


def prepare(model: nn.Module) -> None:
    """Let a model return maps where it is called, for images of any size that its position table is resampled to."""
    mend(model)
    model.forward = partial(model.forward_intermediates, output_fmt='NCHW', intermediates_only=True)
    if type(model).__name__ in _RESAMPLED and hasattr(model.patch_embed, 'strict_img_size'):
        model.patch_embed.strict_img_size = False


def _explore(model: nn.Module, arguments: Mapping[str, Any], reasons: list[str]) -> Geometry | None:
    """The geometry of a model on the meta device; where there is none, ``reasons`` gets one more."""
    if not hasattr(model, 'forward_intermediates') or not getattr(model, 'feature_info', None):
        reasons.append('it has no forward_intermediates')
        return None
    prepare(model)
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
            padded = [side + -side % divisor + 2 * around for side in size]
            reasons.append(reason_of(error, padded))
            continue
        widths = tuple(m.shape[1] for m in maps)
        needs, smallest = _needs(model, maps), 1
        if divisor < max(strides):  # or padding makes them large enough
            tiny = torch.empty(2, channels, 1, 2 * max(strides) + 1, device='meta')
            try:
                taps(model, pad(tiny, divisor, around), resampled)
            except Exception:  # PVT v2, which takes patches of its smallest map
                smallest = max(strides)
        return Geometry(arguments, widths, strides, divisor, around, smallest, resampled, _stem(model), needs)
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
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return tuple(frozenset(names[id(leaf)] for leaf in _leaves(m) if id(leaf) in names) for m in maps)


def _leaves(m: Tensor) -> list[Tensor]:
    """What a gradient of ``m`` would arrive at. To look is much faster than to compute it on the meta device."""
    nodes, leaves, rest = set(), [], [m.grad_fn]
    while rest:
        node = rest.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            rest.extend(before for before, _ in node.next_functions)
            if hasattr(node, 'variable'):
                leaves.append(node.variable)
    return leaves


def taps(
    model: nn.Module, x: Tensor, resampled: str | None = None, indices: Sequence[int] | None = None
) -> list[Tensor]:
    """Padded images (B, C, H, W) to the maps ``indices`` of a model, all where None, (B, C_i, H_i, W_i).

    The model's position table is resampled where ``resampled`` names its layout.
    """
    asked = {'indices': None if indices is None else list(indices)}
    if not resampled:
        return model(x, **asked)
    table = resampled_table(model, x.shape[-2:], resampled)
    return torch.func.functional_call(model, {'pos_embed': table}, (x,), asked)
