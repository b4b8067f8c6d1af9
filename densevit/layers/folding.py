"""Folding: what depends on the parameters alone is computed once, for inference.

BatchNorm after a convolution is a factor and an offset per channel, which can be multiplied into the convolution; the
bias of windowed attention is looked up in a table, or comes from a small network, whatever the image. A module that has
such quantities asks for them through :meth:`Foldable.derived`. :func:`densevit.fold` makes it keep them;
:func:`densevit.unfold`, training mode, another dtype or device and loaded weights make it forget them. They are neither
parameters nor buffers, so a checkpoint of a folded model is the checkpoint of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

__all__ = ['Foldable', 'fold_batch_norm']

P, T = ParamSpec('P'), TypeVar('T')


class Foldable(nn.Module):
    """A module with quantities that it derives from its parameters, and keeps while it is folded."""

    _derived: dict[Any, Any] | None = None  # None: not folded

    def fold(self) -> None:
        """Keep what :meth:`derived` computes from now on, until :meth:`unfold` or ``train()``."""
        self._derived = {}

    def unfold(self) -> None:
        """Compute everything from the parameters again."""
        self._derived = None

    @property
    def is_folded(self) -> bool:
        """Whether derived quantities are kept: folded, and no gradient can be asked for."""
        return self._derived is not None and not torch.is_grad_enabled()

    def derived(self, compute: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``compute(*args)``, a method of this module; kept for the same arguments while the module is folded."""
        if not self.is_folded:
            return compute(*args, **kwargs)
        device = next((parameter.device.type for parameter in self.parameters()), 'cpu')
        precision = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        key = (compute.__name__, args, tuple(sorted(kwargs.items())), precision)
        if key not in self._derived:
            self._derived[key] = compute(*args, **kwargs)
        return self._derived[key]

    def _forget(self) -> None:
        if self._derived is not None:
            self._derived = {}

    def train(self, mode: bool = True) -> Foldable:
        """Set the mode; training mode unfolds."""
        if mode:
            self.unfold()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Foldable:  # to another device or dtype
        self._forget()
        return super()._apply(*args, **kwargs)

    def _replicate_for_data_parallel(self) -> Foldable:
        replica = super()._replicate_for_data_parallel()
        replica._forget()
        return replica

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:  # of copies and pickles: folded too, but they compute their own
        state = super().__getstate__()
        return {**state, '_derived': {}} if self._derived else state


def fold_batch_norm(
    weight: Tensor, bias: Tensor | None, norm: nn.modules.batchnorm._BatchNorm, *, axis: int = 0
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what one followed by BatchNorm in eval mode does.

    norm(W x + b) = gamma (W x + b - mean) / sqrt(var + eps) + beta = (f W) x + (f (b - mean) + beta)
    with f = gamma / sqrt(var + eps), one number per channel.

    Args:
        weight: of the convolution.
        bias: of the convolution, (C,), or None.
        norm: with running statistics.
        axis: of ``weight`` that counts the C outputs: 0, or 1 for a transposed convolution.
    """
    factor = torch.rsqrt(norm.running_var + norm.eps)
    offset = -norm.running_mean if bias is None else bias - norm.running_mean
    if norm.affine:
        factor = factor * norm.weight
    shape = [1] * weight.ndim
    shape[axis] = -1
    offset = offset * factor
    return weight * factor.reshape(shape), offset if not norm.affine else offset + norm.bias
