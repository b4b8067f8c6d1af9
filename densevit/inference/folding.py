"""Folding a whole model for inference, mmcv's convolution modules included."""

from __future__ import annotations

from typing import TypeVar

import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import wrappers
from torch import Tensor, nn

from ..layers.folding import Foldable, fold_batch_norm

__all__ = ['FoldedConvModule', 'fold', 'unfold']

M = TypeVar('M', bound=nn.Module)

_CONVS = (nn.Conv2d, wrappers.Conv2d)
_TRANSPOSED = (nn.ConvTranspose2d, wrappers.ConvTranspose2d)
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


class FoldedConvModule(Foldable, ConvModule):
    """mmcv's ConvModule of convolution, BatchNorm and any activation, with the norm multiplied into the convolution.

    :func:`fold` makes a ``ConvModule`` one of these by changing its class, nothing else: parameters, buffers, hooks and
    references to it stay. Unfolding changes the class back.
    """

    def unfold(self) -> None:
        """Be a ConvModule again."""
        super().unfold()
        del self._derived
        self.__class__ = ConvModule

    def train(self, mode: bool = True) -> ConvModule:
        """Set the mode; training mode unfolds."""
        if not mode:
            return super().train(mode)
        self.unfold()
        return self.train(mode)

    def weight_and_bias(self, layout: torch.memory_format = torch.contiguous_format) -> tuple[Tensor, Tensor]:
        """Of the one convolution that stands for convolution and norm."""
        axis = 1 if isinstance(self.conv, nn.ConvTranspose2d) else 0
        weight, bias = fold_batch_norm(self.conv.weight, self.conv.bias, self.norm, axis=axis)
        return weight.contiguous(memory_format=layout), bias

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """As ConvModule's: map to map, (B, C, H, W)."""
        if not (self.is_folded and norm) or self.norm.training:
            return super().forward(x, activate, norm)
        if self.with_explicit_padding:
            x = self.padding_layer(x)
        weight, bias = self.derived(self.weight_and_bias, _layout(x))
        conv = self.conv
        if isinstance(conv, nn.ConvTranspose2d):
            x = nn.functional.conv_transpose2d(
                x, weight, bias, conv.stride, conv.padding, conv.output_padding, conv.groups, conv.dilation
            )
        else:
            x = conv._conv_forward(x, weight, bias)
        if not (activate and self.with_activation):
            return x
        # The convolution's output is ours alone, so that ReLU may overwrite it even where `inplace` is off.
        return x.relu_() if type(self.activate) is nn.ReLU else self.activate(x)


def _layout(x: Tensor) -> torch.memory_format:
    """The layout in which a convolution of ``x`` takes its weight without a copy."""
    nhwc = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if nhwc else torch.contiguous_format


def _can_fold(module: nn.Module) -> bool:
    """Whether ``module`` is a ConvModule whose norm is a fixed affine map right after its convolution."""
    if type(module) is not ConvModule or not module.with_norm or module.order != ('conv', 'norm', 'act'):
        return False
    conv, norm = module.conv, module.norm
    if type(conv) in _TRANSPOSED and conv.groups > 1:  # there axis 1 of the weight counts the outputs of one group
        return False
    # Weights that a hook computes (spectral or weight norm), or somebody who looks at what the parts give.
    hooked = any(part._forward_pre_hooks or part._forward_hooks for part in (conv, norm))
    return type(conv) in _CONVS + _TRANSPOSED and type(norm) in _NORMS and norm.running_mean is not None and not hooked


def fold(model: M) -> M:
    """Put ``model`` in eval mode and let it keep what depends on its parameters alone; outputs stay the same.

    Every :class:`densevit.layers.Foldable` in it, and every ``ConvModule`` of mmcv with convolution and BatchNorm in
    this order, of any model: mmsegmentation's and mmdetection's own heads gain as well. Kept quantities are used where
    no gradient can be asked for, under ``torch.no_grad()`` or ``torch.inference_mode()``; anywhere else the model
    computes as before. They are made when they are first needed, are no part of ``state_dict()``, copies or pickles,
    and follow ``load_state_dict()``, ``.to()`` and ``.half()`` of the whole model. ``train()`` unfolds.

    Nothing can notice that a parameter or a running statistic is overwritten in place or through ``.data`` (as
    mmengine's EMA hook does): call ``fold`` again after that, which starts anew.

    Returns:
        ``model`` itself.
    """
    model.eval()
    for module in model.modules():
        if _can_fold(module):
            module.__class__ = FoldedConvModule
        if isinstance(module, Foldable):
            module.fold()
    return model


def unfold(model: M) -> M:
    """Undo :func:`fold`; the model stays in eval mode.

    Returns:
        ``model`` itself.
    """
    for module in model.modules():
        if isinstance(module, Foldable):
            module.unfold()
    return model
