"""Cross entropy of logits resized to the labels, without the resized logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .interpolation import Span, calculated_in, interpolated_axis, on_cpu, rectangles

__all__ = ['ResizedCrossEntropy', 'resized_cross_entropy']

# Resized logits at a time: on a CPU they stay in the L2 cache, on a GPU they are worth a launch.
_CPU_BLOCK, _GPU_BLOCK = 800_000, 2**25


class ResizedCrossEntropy(NamedTuple):
    """What :func:`resized_cross_entropy` returns: three numbers.

    Attributes:
        total: sum of the pixels' cross entropies times the weights of their classes; has a gradient.
        weight: sum of these weights: ``total / weight`` is the mean.
        correct: number of pixels whose class has the largest logit.
    """

    total: Tensor
    weight: Tensor
    correct: Tensor


@torch.compiler.disable
def resized_cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    ignore_index: int,
    class_weight: Tensor | None = None,
    align_corners: bool = False,
) -> ResizedCrossEntropy:
    """Cross entropy of the pixels of ``label``, with ``logits`` resized to it bilinearly.

    ``F.cross_entropy(F.interpolate(logits, ...), label)`` keeps several tensors of B * C * H * W elements for the
    backward pass, 157 MB each for an image of 512 x 512 pixels and 150 classes. With x = A l for the logits l, the
    interpolation A and the pixels' logits x, the gradient in l is A^T (w (softmax(x) - onehot(label))). So it needs
    nothing but x, can be computed together with the loss, rectangle by rectangle, and is as small as l.

    Args:
        logits: (B, C, h, w). In half precision they are resized in float32.
        label: (B, H, W), integers.
        ignore_index: label value that does not count.
        class_weight: (C,), 1 by default.
        align_corners: as in ``F.interpolate``.

    Raises:
        ValueError: on the CPU, a label that is neither a class nor ``ignore_index``; elsewhere CUDA stops, as for
            ``F.cross_entropy``.
    """
    counts = label != ignore_index
    label = label.where(counts, 0).long()
    if on_cpu(label) and label.numel():
        lowest, highest = (int(each) for each in label.aminmax())
        if lowest < 0 or highest >= logits.shape[1]:
            raise ValueError(
                f'label contains {lowest if lowest < 0 else highest}, but there are {logits.shape[1]} classes (0 to '
                f'{logits.shape[1] - 1}) and {ignore_index} is ignored: map it to one of them, or check num_classes '
                'and reduce_zero_label.'
            )
    weight = counts.to(calculated_in(logits))
    if class_weight is not None:
        weight *= class_weight.to(weight)[label]
    with torch.autocast(logits.device.type, enabled=False):
        total, correct = _Total.apply(logits, label, weight, counts, align_corners)
    return ResizedCrossEntropy(total, weight.sum(), correct)


class _Total(torch.autograd.Function):
    """The sum, and the number of correct pixels; the gradient of the sum is computed with it."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, weight: Tensor, counts: Tensor, align_corners: bool
    ) -> tuple[Tensor, Tensor]:
        kind = (align_corners, weight.dtype, logits.device)
        down, across = (interpolated_axis(*sizes, *kind) for sizes in zip(logits.shape[2:], label.shape[1:]))
        gradient = torch.zeros_like(logits, dtype=weight.dtype) if ctx.needs_input_grad[0] else None
        total = weight.new_zeros(())
        correct = torch.zeros((), dtype=torch.int64, device=logits.device)
        limit = (_CPU_BLOCK if on_cpu(logits) else _GPU_BLOCK) // logits.shape[1]
        height, width = label.shape[1:]
        for rows, cols in rectangles(Span(0, height), Span(0, width), limit):
            pixels = (slice(*rows), slice(*cols))
            source = (slice(None), slice(*down.below(rows)), slice(*across.below(cols)))
            matrices = [
                None if axis.is_identity else axis.matrix(span) for axis, span in ((down, rows), (across, cols))
            ]
            for index in range(len(logits)):
                x = logits[index][source].transpose(0, 1)  # (h, C, w): the layout of Axis
                x = x.to(weight.dtype, copy=True, memory_format=torch.contiguous_format)
                x = _resize(x, *matrices)
                own, factor, counted = (each[index][pixels][:, None] for each in (label, weight, counts))
                largest = x.amax(1, keepdim=True)
                logit = x.gather(1, own)
                correct += ((logit >= largest) & counted).sum()
                mass = x.sub_(largest).exp_().sum(1, keepdim=True)
                total += (factor * (mass.log() + largest - logit)).sum()
                if gradient is not None:
                    x *= factor / mass
                    x.scatter_(1, own, x.gather(1, own) - factor)
                    gradient[index][source] += _resize_transposed(x, *matrices).transpose(0, 1)
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, grad_correct: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_total).to(ctx.dtype), None, None, None, None


def _resize(x: Tensor, down: Tensor | None, across: Tensor | None) -> Tensor:
    """Interpolate (h, C, w) to (H, C, W), with the weights (h, H) and (w, W)."""
    if across is not None:
        x = x @ across
    return x if down is None else (down.t() @ x.flatten(1)).unflatten(1, x.shape[1:])


def _resize_transposed(x: Tensor, down: Tensor | None, across: Tensor | None) -> Tensor:
    """The transposed linear map, (H, C, W) to (h, C, w)."""
    if down is not None:
        x = (down @ x.flatten(1)).unflatten(1, x.shape[1:])
    return x if across is None else x @ across.t()
