"""UperNet's decode head, with the arithmetic of mmsegmentation's in about half the multiply-adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import wrappers
from mmseg.models.decode_heads import UPerHead as MMSegUPerHead
from mmseg.models.decode_heads.psp_head import PPM
from torch import Tensor, nn

from ..inference.folding import FoldedConvModule
from ..layers.conv import conv3x3
from ..layers.convert import to_nhwc
from ..layers.folding import Foldable
from ..layers.linear import has_hooks
from ..layers.upsampled_conv import add_resized_, split_conv_weight, upsampled_conv3x3
from ..layers.winograd import transform_weight, winograd_conv3x3
from ..registry import MODELS
from .lean_loss import LeanLoss

__all__ = ['UPerHead']

_DROPOUTS = (nn.Dropout2d, type(None))


@MODELS.register_module()
class UPerHead(LeanLoss, Foldable, MMSegUPerHead):
    """mmsegmentation's ``UPerHead``: same arguments, parameters and outputs, about twice as fast.

    "Unified Perceptual Parsing for Scene Understanding", https://arxiv.org/abs/1807.10221. Two convolutions read a
    concatenation of resized maps: the one that fuses the pyramid and the one that fuses the pooled maps. Here coarse
    maps are convolved at their own size, see :mod:`densevit.layers.upsampled_conv`: 112 instead of 211 billion
    multiply-adds for an image of 512 x 512 and 512 channels, and neither the concatenation nor the resized maps are
    stored, in training too. Maps are channels last throughout. After :func:`densevit.fold` BatchNorm costs nothing.

    A part that is not what mmsegmentation builds from ``Conv2d`` (another ``conv_cfg``, a module that was replaced or
    has hooks) is called as it is; so is what a subclass overrides.

    Args:
        pool_scales: into how many rows and columns of regions the coarsest map is pooled, one entry per pooled map.
        winograd: compute 3 x 3 convolutions by Winograd's algorithm where no gradient can be asked for: faster on CPUs,
            with rounding errors about twice as large, see :func:`densevit.layers.winograd_conv3x3`.
        **kwargs: mmsegmentation's own, such as ``in_channels``, ``in_index``, ``channels`` and ``num_classes``.
    """

    def __init__(self, pool_scales: Sequence[int] = (1, 2, 3, 6), *, winograd: bool = False, **kwargs: Any) -> None:
        super().__init__(pool_scales, **kwargs)
        self.winograd = winograd

    def psp_forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The coarsest map and its means over ``pool_scales`` regions, fused: (B, C, H, W)."""
        if type(self.psp_modules) is not PPM or has_hooks(self.psp_modules):
            return super().psp_forward(inputs)
        x = inputs[-1]
        return self._fuse(self.bottleneck, [x, *(pool(x) for pool in self.psp_modules)])

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features (B, C, H, W) of the finest map's size, from which ``cls_seg`` makes the logits."""
        inputs = [x.contiguous(memory_format=torch.channels_last) for x in self._transform_inputs(inputs)]
        laterals = [_run(conv, x) for conv, x in zip(self.lateral_convs, inputs[:-1], strict=True)]
        laterals.append(self.psp_forward(inputs))
        for level in range(len(laterals) - 2, -1, -1):  # coarse to fine
            ours = not torch.is_grad_enabled() and _is_plain(self.lateral_convs[level], kernel_size=1)
            add = add_resized_ if ours else _add_resized
            laterals[level] = add(laterals[level], laterals[level + 1], align_corners=self.align_corners)
        for level, conv in enumerate(self.fpn_convs):
            laterals[level] = self._fuse(conv, [laterals[level]])
        return self._fuse(self.fpn_bottleneck, laterals)

    def cls_seg(self, feat: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of features (B, C, H, W)."""
        conv, batch = self.conv_seg, len(feat)
        if not _is_dense(conv, kernel_size=1) or conv.bias is None or type(self.dropout) not in _DROPOUTS:
            return super().cls_seg(feat)
        weight = conv.weight.flatten(1)  # (classes, C)
        if self.dropout is not None and self.dropout.training:
            # Dropping channels of the features or columns of the weight is one thing; the features are not copied.
            weight = weight * self.dropout(feat.new_ones(batch, self.channels, 1, 1)).reshape(batch, 1, -1)
        pixels, weight = to_nhwc(feat).flatten(1, 2), weight.expand(batch, -1, -1)  # (B, H * W, C), (B, classes, C)
        if torch.is_grad_enabled():  # the gradient of the pixels then has their layout
            logits = torch.baddbmm(conv.bias, pixels, weight.transpose(1, 2)).transpose(1, 2)
        else:
            logits = torch.baddbmm(conv.bias[:, None], weight, pixels.transpose(1, 2))
        return logits.reshape(batch, -1, *feat.shape[-2:])

    def _fuse(self, module: nn.Module, maps: Sequence[Tensor]) -> Tensor:
        """``module``, a 3 x 3 convolution with norm and activation, of ``maps`` resized to the first one's size."""
        if not _is_plain(module, kernel_size=3):
            size = maps[0].shape[-2:]
            resized = (F.interpolate(x, size, mode='bilinear', align_corners=self.align_corners) for x in maps[1:])
            return module(torch.cat([maps[0], *resized], dim=1))
        folded = _is_folded(module)
        keeper = module if folded else self  # which notices when the weights change
        weights, bias = keeper.derived(self._weights, module, tuple(x.shape[1] for x in maps), folded)

        def conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if not self.winograd or torch.is_grad_enabled():
                return conv3x3(x, weight, bias)
            known = keeper.derived(self._transformed, module, x.shape[1], folded) if weight is weights[0] else None
            return winograd_conv3x3(x, weight, bias, transformed=known)

        x = upsampled_conv3x3(maps, weights, bias, align_corners=self.align_corners, conv=conv)
        return _norm_and_activate(module, x)

    def _weights(
        self, module: ConvModule, channels: tuple[int, ...], folded: bool
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The weight of ``module`` for each map, and the bias."""
        weight, bias = module.weight_and_bias() if folded else (module.conv.weight, module.conv.bias)
        return split_conv_weight(weight, channels), bias

    def _transformed(self, module: ConvModule, channels: int, folded: bool) -> Tensor:
        """The transformed weight of ``module`` for its first map."""
        weight = module.weight_and_bias()[0] if folded else module.conv.weight
        return transform_weight(weight[:, :channels])


def _is_folded(module: nn.Module) -> bool:
    return isinstance(module, FoldedConvModule) and module.is_folded and not module.norm.training


def _is_dense(conv: nn.Module, kernel_size: int) -> bool:
    """Whether ``conv`` is a dense convolution that keeps the size of the map, and nothing else."""
    return (
        type(conv) in (nn.Conv2d, wrappers.Conv2d)
        and conv.kernel_size == (kernel_size, kernel_size)
        and conv.padding == (kernel_size // 2, kernel_size // 2)
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == 'zeros'
        and not has_hooks(conv)
    )


def _is_plain(module: nn.Module, kernel_size: int) -> bool:
    """Whether ``module`` is such a convolution, then norm, then activation."""
    return (
        type(module) in (ConvModule, FoldedConvModule)
        and module.order == ('conv', 'norm', 'act')
        and not module.with_explicit_padding
        and module.efficient_conv_bn_eval_forward is None
        and not any(has_hooks(part) for part in module.modules())
        and _is_dense(module.conv, kernel_size)
    )


def _norm_and_activate(module: ConvModule, x: Tensor) -> Tensor:
    if module.with_norm and not _is_folded(module):
        x = module.norm(x)
    if not module.with_activation:
        return x
    # Neither convolution nor norm keeps its output for the backward pass, so that ReLU may always overwrite it.
    return x.relu_() if type(module.activate) is nn.ReLU else module.activate(x)


def _add_resized(fine: Tensor, coarse: Tensor, *, align_corners: bool) -> Tensor:
    return fine + F.interpolate(coarse, fine.shape[-2:], mode='bilinear', align_corners=align_corners)


def _run(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)``."""
    if _is_folded(module) or not _is_plain(module, kernel_size=1):
        return module(x)
    return _norm_and_activate(module, module.conv(x))
