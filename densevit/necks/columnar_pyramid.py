"""A feature pyramid from a backbone with a single scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import Foldable, fold_batch_norm, to_nchw, to_nhwc
from ..layers.activation import gelu_
from ..layers.linear import is_plain
from ..registry import MODELS

__all__ = ['ColumnarPyramid']


class _Pool(nn.Module):
    """Max-pooling by an integer factor, flooring; a side shorter than the factor becomes 1 instead of an error."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return F.max_pool2d(x, (min(self.factor, height), min(self.factor, width)))


def _double(channels: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)


class _Quadruple(Foldable, nn.Sequential):
    """Transposed convolution, norm, GELU, transposed convolution. Folded, the norm is part of the first convolution."""

    def __init__(self, channels: int, norm_cfg: Mapping[str, Any]) -> None:
        norm = build_norm_layer(dict(norm_cfg), channels)[1]
        super().__init__(_double(channels), norm, nn.GELU(), _double(channels))

    def forward(self, x: Tensor) -> Tensor:
        first, norm, _, second = self
        is_fixed = isinstance(norm, _BatchNorm) and not norm.training and norm.running_mean is not None
        if self.is_folded and is_fixed and is_plain(first):
            x = F.conv_transpose2d(x, *self.derived(self._folded), stride=2)
        else:
            x = norm(first(x))
        return second(gelu_(x))

    def _folded(self) -> tuple[Tensor, Tensor]:
        return fold_batch_norm(self[0].weight, self[0].bias, self[1], axis=1)


@MODELS.register_module()
class ColumnarPyramid(BaseModule):
    """Resample the maps of a column (ViT, DeiT, XCiT, PatchConvNet, ...) to the levels of a pyramid.

    Level i is the input map, or input map i, scaled by ``scales[i]``::

        4    2x2 transposed convolution, norm, GELU, 2x2 transposed convolution
        2    2x2 transposed convolution
        1    the map itself
        1/2  2x2 max-pooling (1/4: 4x4); an odd last row or column is dropped

    This is the adapter of XCiT (El-Nouby et al., https://arxiv.org/abs/2106.09681; code `facebookresearch/xcit`,
    commit 82f5291), to which a PatchConvNet author points for dense tasks (`facebookresearch/deit` issue 138).
    mmsegmentation's ``Feature2Pyramid`` has the same arithmetic, but needs as many inputs as levels.

    Args:
        in_channels: C of the input maps, also of every level: an int, or one number per input, all equal.
        norm_cfg: the norm between the two transposed convolutions, as mmcv's ``build_norm_layer`` takes it. The
            default, BN, becomes SyncBN where the tools run distributed on CUDA.
        scales: factor of each level, fine to coarse; for a column of stride 16 the default gives 4, 8, 16, 32.
        init_cfg: mmengine's initialization config.

    Raises:
        ValueError: a scale without a rule above, or unequal ``in_channels``.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        norm_cfg: Mapping[str, Any] | None = None,
        *,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        widths = {in_channels} if isinstance(in_channels, int) else set(in_channels)
        if len(widths) != 1:
            raise ValueError(f'in_channels={in_channels}: the maps of a column all have the same channels')
        (channels,) = widths
        self.norm_cfg = dict(type='BN') if norm_cfg is None else dict(norm_cfg)
        self.scales = tuple(scales)
        for number, scale in enumerate(self.scales, start=1):
            self.add_module(f'fpn{number}', self._level(channels, scale))
        self.out_channels = (channels,) * len(self.scales)

    def _level(self, channels: int, scale: float) -> nn.Module:
        if scale == 4:
            return _Quadruple(channels, self.norm_cfg)
        if scale == 2:
            return nn.Sequential(_double(channels))
        if scale == 1:
            return nn.Identity()
        if scale in (0.5, 0.25, 0.125):
            return _Pool(round(1 / scale))
        raise ValueError(f'scales={self.scales}: {scale} is not one of 4, 2, 1, 0.5, 0.25, 0.125')

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map for all levels, or one per level, each (B, C, H, W) -> maps (B, C, H * scale, W * scale).

        Raises:
            ValueError: neither one map nor one per level, or a tensor, whose images would be taken for maps.
        """
        if isinstance(inputs, Tensor):
            raise ValueError('ColumnarPyramid takes a tuple of maps, as backbones return, and got a single tensor')
        if len(inputs) not in (1, len(self.scales)):
            raise ValueError(
                f'ColumnarPyramid got {len(inputs)} maps for {len(self.scales)} levels; let the backbone return one '
                f'(out_indices=(-1,)) or {len(self.scales)}'
            )
        # a transposed convolution takes a third of the time in channels_last; the heads' convolutions take it on
        inputs = [to_nchw(to_nhwc(x).contiguous()) for x in inputs]
        maps = inputs if len(inputs) > 1 else inputs * len(self.scales)
        return tuple(getattr(self, f'fpn{number}')(x) for number, x in enumerate(maps, start=1))
