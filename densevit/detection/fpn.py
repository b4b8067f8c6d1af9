"""The feature pyramid of detectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models import necks
from torch import Tensor

from ..layers.linear import has_hooks
from ..registry import MODELS

__all__ = ['FPN']


@MODELS.register_module()
class FPN(necks.FPN):
    """mmdetection's ``FPN``, channels_last on the CPU and with fewer copies.

    Arguments and parameter names are mmdetection's. A coarser map is added to the finer one in place, each of its
    pixels to four, where the sizes are in that proportion and nearest neighbours are asked for.
    """

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of ``out_channels`` from finest to coarsest."""
        if inputs[0].device.type != 'cpu':
            return super().forward(tuple(inputs))
        if len(inputs) != len(self.in_channels):
            raise ValueError(f'FPN got {len(inputs)} maps; in_channels has {len(self.in_channels)}.')
        inputs = [each.contiguous(memory_format=torch.channels_last) for each in inputs]
        nearest = self.upsample_cfg == dict(mode='nearest')
        watched = any(
            has_hooks(part) for part in self.lateral_convs.modules()
        )  # by who would see the sum in their place
        if self.add_extra_convs or not nearest or self.lateral_convs[0].with_activation or watched:
            return super().forward(tuple(inputs))
        laterals = [conv(inputs[index + self.start_level]) for index, conv in enumerate(self.lateral_convs)]
        for low, high in zip(laterals[:0:-1], laterals[-2::-1]):
            add_upsampled_(high, low)
        outs = [conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals)]
        while len(outs) < self.num_outs:
            outs.append(outs[-1][:, :, ::2, ::2].contiguous(memory_format=torch.channels_last))
        return tuple(outs)


def add_upsampled_(high: Tensor, low: Tensor) -> Tensor:
    """Add ``low``, repeated by nearest neighbours to the size of ``high``, to ``high`` in place.

    Both (B, C, H, W), best in channels_last.
    """
    batch, channels, height, width = low.shape
    if high.shape[2:] != (2 * height, 2 * width):
        return high.add_(torch.nn.functional.interpolate(low, size=high.shape[2:], mode='nearest'))
    quads = high.permute(0, 2, 3, 1).unflatten(2, (width, 2)).unflatten(1, (height, 2))
    quads.add_(low.permute(0, 2, 3, 1)[:, :, None, :, None])
    return high
