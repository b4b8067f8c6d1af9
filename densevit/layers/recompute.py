"""Layers whose input is computed again in the backward pass instead of stored.

A convolution or linear layer stores its input for the gradient of its weight. Where that input is a cheap function of
tensors that are stored anyway, such as GELU or LayerNorm, storing it doubles the memory for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import is_plain
from .pieces import is_transformed

__all__ = ['layer_of']


def layer_of(
    layer: nn.Linear | nn.Conv2d, function: Callable[..., Tensor], *tensors: Tensor, y: Tensor | None = None
) -> Tensor:
    """``layer(y)``, where y = ``function(*tensors)`` is not stored for the backward pass but computed again.

    Args:
        layer: linear or convolution.
        function: cheap and deterministic; everything that it depends on is in ``tensors``.
        tensors: what autograd stores for the gradient of ``y`` anyway.
        y: the layer's input, where something else than ``function`` has made it already, such as a module.
    """
    y = function(*tensors) if y is None else y
    recorded = torch.is_grad_enabled() and not is_transformed()
    if not (recorded and is_plain(layer)) or y.is_meta:
        return layer(y)
    return _LayerOf.apply(y, layer.weight, layer.bias, layer, function, *tensors)


class _LayerOf(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        y: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Module, function: Callable[..., Tensor], *_: Tensor
    ) -> Tensor:
        return layer._conv_forward(y, weight, bias) if isinstance(layer, nn.Conv2d) else F.linear(y, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        y, weight, _, ctx.layer, ctx.function, *tensors = inputs
        ctx.save_for_backward(weight, *tensors)
        device = y.device.type
        ctx.autocast = dict(
            device_type=device,
            enabled=torch.is_autocast_enabled(device),
            dtype=torch.get_autocast_dtype(device),
            cache_enabled=False,
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *tensors = ctx.saved_tensors
        with torch.autocast(**ctx.autocast):
            y = ctx.function(*tensors)
        backward = _conv_backward if isinstance(ctx.layer, nn.Conv2d) else _linear_backward
        with torch.autocast(grad.device.type, enabled=False):
            # under autocast the layer has computed in the dtype of its output
            grads = backward(ctx.layer, grad, y.to(grad.dtype), weight.to(grad.dtype), ctx.needs_input_grad[:3])
        grads = (g if g is None else g.to(t.dtype) for g, t in zip(grads, (y, weight, weight), strict=True))
        return *grads, None, None, *(None for _ in tensors)


def _linear_backward(
    layer: nn.Linear, grad: Tensor, y: Tensor, weight: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    rows = grad.reshape(-1, grad.shape[-1])
    return (
        grad @ weight if needed[0] else None,
        rows.t() @ y.reshape(-1, y.shape[-1]) if needed[1] else None,
        rows.sum(0) if needed[2] else None,
    )


def _conv_backward(
    conv: nn.Conv2d, grad: Tensor, y: Tensor, weight: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    sizes = None if conv.bias is None else [len(weight)]
    return torch.ops.aten.convolution_backward(
        grad, y, weight, sizes, conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups, needed
    )
