"""The feed-forward part of PVT v2, a depth-wise convolution between two linear layers, without its wide map.

The map between the layers has eight times the channels of a stage, and is written and read at each of four steps. At
512 x 512 pixels it has 32 MiB in the first stage, which the system hands out anew, page by page, at every step. That
takes longer than the matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convert import to_nchw, to_nhwc
from .linear import has_fused_operations, is_plain
from .pieces import NUMBERS, is_compiling_inference, is_transformed
from .recompute import layer_of

__all__ = ['depthwise_mlp']

# A slice has a multiple of this many channels: two vectors of the processor.
CHANNELS = 32


def depthwise_mlp(x: Tensor, fc1: nn.Linear, conv: nn.Conv2d, fc2: nn.Linear, *, relu: bool = False) -> Tensor:
    """Linear, depth-wise convolution, GELU, linear: (B, H, W, C) -> (B, H, W, C).

    A depth-wise convolution mixes no channels. With the C' hidden channels in slices I_1, I_2, ..., the slice
    h_i = gelu(conv_i(W1[I_i] x + b1[I_i])) needs its own part of the parameters alone, and

        W2 gelu(conv(W1 x + b1)) + b2 = b2 + sum over i of W2[:, I_i] h_i.

    On a CPU, one slice exists at a time. In training nothing but x is stored, and a slice is computed again in the
    backward pass; both take less time than the memory that they save would.

    Args:
        x: tokens.
        fc1: C -> C', with bias.
        conv: of C' channels in as many groups, keeping H and W, zeros around the map, with bias.
        fc2: C' -> C, with bias.
        relu: a ReLU directly behind ``fc1``.
    """
    if _takes_slices(x, fc1, conv, fc2):
        parameters = (fc1.weight, fc1.bias, conv.weight, conv.bias, fc2.weight, fc2.bias)
        if torch.compiler.is_compiling():
            return _compiled(x, *parameters, relu)
        return _DepthwiseMlp.apply(x, *parameters, relu)
    x = F.relu(fc1(x)) if relu else fc1(x)
    return layer_of(fc2, F.gelu, to_nhwc(conv(to_nchw(x))))


def _takes_slices(x: Tensor, *layers: nn.Linear | nn.Conv2d) -> bool:
    """Whether this is a CPU, the layers are what they seem, and nobody transforms the program or its precision.

    A compiler keeps the slices as one operation in inference: it would make the wide map (measured at 512 x 512 pixels,
    first stage: 53 ms for 19 ms).
    """
    return (
        is_plain(*layers)
        and x.device.type == 'cpu'
        and x.numel() > 0
        and x.dtype in (torch.float32, torch.float64)
        and all(layer.weight.dtype == x.dtype for layer in layers)
        and (is_compiling_inference() or not is_transformed())
        and not torch.is_autocast_enabled('cpu')
    )


def _slices(x: Tensor, hidden: int) -> Iterator[slice]:
    """Hidden channels, as many at a time as make memory worth keeping, see :mod:`densevit.layers.pieces`."""
    tokens = x.numel() // x.shape[-1]
    width = max(NUMBERS // tokens // CHANNELS, 1) * CHANNELS
    for start in range(0, hidden, width):
        yield slice(start, min(start + width, hidden))


def _expand(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """Linear, and ReLU if asked for: (B, H, W, C) -> (B, H, W, C')."""
    x = F.linear(x, weight, bias)
    return x.relu_() if relu else x


def _conv_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depth-wise convolution and GELU: (B, H, W, C') -> (B, H, W, C')."""
    padding, ones = [side // 2 for side in weight.shape[2:]], [1, 1]
    if has_fused_operations(x):
        x = torch.ops.mkldnn._convolution_pointwise(
            to_nchw(x), weight, bias, padding, ones, ones, len(weight), 'gelu', [], 'none'
        )
        return to_nhwc(x)
    return F.gelu(to_nhwc(F.conv2d(to_nchw(x), weight, bias, padding=padding, groups=len(weight))))


def _by_slices(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    kernel: Tensor,
    bias: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    relu: bool,
) -> Tensor:
    """:func:`depthwise_mlp`. L = B * H * W."""
    x = x.contiguous()
    total = bias2.repeat(x.numel() // x.shape[-1], 1)  # (L, C)
    for part in _slices(x, len(weight1)):
        hidden = _conv_gelu(_expand(x, weight1[part], bias1[part], relu), kernel[part], bias[part])
        torch.addmm(total, hidden.reshape(len(total), -1), weight2[:, part].t(), out=total)
    return total.view(*x.shape[:-1], -1)


_compiled = torch.library.custom_op('densevit::depthwise_mlp', _by_slices, mutates_args=())


@_compiled.register_fake
def _(x, weight1, bias1, kernel, bias, weight2, bias2, relu):
    return x.new_empty((*x.shape[:-1], len(weight2)))


class _DepthwiseMlp(torch.autograd.Function):
    """:func:`_by_slices` with its gradients. L = B * H * W, n channels in a slice."""

    @staticmethod
    def forward(ctx, x, weight1, bias1, kernel, bias, weight2, bias2, relu):
        ctx.relu = relu
        ctx.save_for_backward(x, weight1, bias1, kernel, bias, weight2)
        return _by_slices(x, weight1, bias1, kernel, bias, weight2, bias2, relu)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.autocast('cpu', enabled=False)
    def backward(ctx, grad):
        x, weight1, bias1, kernel, bias, weight2 = ctx.saved_tensors
        needs = ctx.needs_input_grad
        x = x.contiguous()
        of_all = (x, weight1, bias1, kernel, bias, weight2)
        grad_x, *grads = (torch.zeros_like(each) if need else None for each, need in zip(of_all, needs, strict=False))
        tokens, grad_out = x.flatten(0, -2), grad.flatten(0, -2)  # (L, C)
        padding = [side // 2 for side in kernel.shape[2:]]
        for part in _slices(x, len(weight1)):
            before = to_nchw(_expand(x, weight1[part], bias1[part], ctx.relu))  # (B, n, H, W)
            n = before.shape[1]
            after = F.conv2d(before, kernel[part], bias[part], padding=padding, groups=n)
            of_weight2 = grad_out.t() @ F.gelu(to_nhwc(after)).reshape(len(tokens), n) if needs[5] else None
            step = (grad_out @ weight2[:, part]).view(to_nhwc(after).shape)
            step = torch.ops.aten.gelu_backward(to_nchw(step), after)
            step, of_kernel, of_bias = torch.ops.aten.convolution_backward(
                step, before, kernel[part], [n], [1, 1], padding, [1, 1], False, [0, 0], n, [True, needs[3], needs[4]]
            )
            if ctx.relu:
                step = torch.ops.aten.threshold_backward(step, before, 0)
            step = to_nhwc(step).reshape(len(tokens), n)
            of_weight1 = step.t() @ tokens if needs[1] else None
            of_bias1 = step.sum(0) if needs[2] else None
            if needs[0]:
                total = grad_x.view(tokens.shape)
                torch.addmm(total, step, weight1[part], out=total)
            of_parts = (of_weight1, of_bias1, of_kernel, of_bias, of_weight2)
            for whole, of_part, axis in zip(grads, of_parts, (0, 0, 0, 0, 1), strict=True):
                if whole is not None:
                    whole.narrow(axis, part.start, n).copy_(of_part)
        return grad_x, *grads, grad_out.sum(0) if needs[6] else None, None
