"""A model of timm of which only that is built or trained which its maps need."""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from torch import Tensor, nn

from .timm_geometry import Geometry, create, pad, prepare, taps

__all__ = ['build_timm', 'recompute']


def build_timm(model_name: str, geometry: Geometry, indices: Sequence[int], drop_path_rate: float = 0.0) -> nn.Module:
    """timm's model up to the last of the maps ``indices``, which ascend from 0; parameters that none needs are frozen.

    Raises:
        ValueError: the model has no stochastic depth.
    """
    arguments = {**geometry.arguments, **({'drop_path_rate': drop_path_rate} if drop_path_rate else {})}
    try:
        model = create(model_name, arguments)
    except TypeError as error:
        raise ValueError(
            f'timm cannot build {model_name!r} with drop_path_rate={drop_path_rate}: it seems to have no stochastic '
            f'depth ({error}); leave drop_path_rate out.'
        ) from error
    prepare(model)
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
    with torch.inference_mode(False), torch.enable_grad():
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
        taps(model, pad(x, geometry.divisor, geometry.around, geometry.smallest), geometry.resampled, indices)
    return sum(sizes)
