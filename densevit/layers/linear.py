"""Linear layers that take a neighbouring operation along."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from .pieces import is_transformed

__all__ = ['add_linear', 'has_fused_operations', 'has_hooks', 'is_plain', 'linear_gelu']


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody looks at what a module takes and gives, or changes it."""
    return any((module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks))


def is_plain(*layers: nn.Module) -> bool:
    """Whether a linear layer, convolution or LayerNorm may be computed from its parameters, without calling it.

    Not where an adapter stands in its place, or a hook changes what it takes or gives or listens to it.
    """
    plain = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.LayerNorm)
    return all(type(layer) in plain and not has_hooks(layer) for layer in layers)


def has_fused_operations(x: Tensor) -> bool:
    """Whether oneDNN, which comes with torch, can apply activations in the pass of a product or convolution of ``x``.

    Whoever counts operations shall see them all.
    """
    return (
        x.device.type == 'cpu'
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and all(hasattr(torch.ops.mkldnn, name) for name in ('_linear_pointwise', '_convolution_pointwise'))
        and not is_in_torch_dispatch_mode()
    )


def linear_gelu(layer: nn.Linear, x: Tensor) -> Tensor:
    """Exact GELU of W x + b: (..., C) -> (..., C').

    On a CPU, writing the output of a wide layer and reading it again costs as much as a third of the product. Where
    nobody differentiates, compiles or listens, the GELU is applied while a piece of the output is still in the cache.
    """
    if _takes_gelu_along(layer, x):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, 'gelu', [], 'none')
    return F.gelu(layer(x))


def _takes_gelu_along(layer: nn.Linear, x: Tensor) -> bool:
    return (
        not (torch.is_grad_enabled() or is_transformed())
        and is_plain(layer)
        and x.dtype == layer.weight.dtype
        and x.is_contiguous()
        and not torch.is_autocast_enabled('cpu')
        and has_fused_operations(x)
    )


def add_linear(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x + W branch + b on the last dimension: the product is added where x + b stands, so the sum costs no pass.

    For inference: a new tensor is filled in place.

    Args:
        x: (..., C).
        branch: (..., C_in), of the same leading sizes.
        weight: (C, C_in).
        bias: (C).

    Returns:
        (..., C).
    """
    if not x.dtype == branch.dtype == weight.dtype:  # autocast, which knows no sum in place
        return x + F.linear(branch, weight, bias)
    total = (x + bias).contiguous()
    total.view(-1, total.shape[-1]).addmm_(branch.reshape(-1, branch.shape[-1]), weight.t())
    return total
