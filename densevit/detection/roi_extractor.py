"""Features of regions of interest, read from the level of a pyramid that suits their size."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.ops import RoIAlign
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor as MmdetExtractor
from torch import Tensor

from ..layers.roi_align import pyramid_roi_align
from ..registry import MODELS

__all__ = ['SingleRoIExtractor']


@MODELS.register_module()
class SingleRoIExtractor(MmdetExtractor):
    """mmdetection's ``SingleRoIExtractor``; on the CPU by :func:`densevit.layers.pyramid_roi_align`.

    Arguments are mmdetection's. Other layers than ``RoIAlign`` with averages, and other devices, are computed as there.
    """

    def forward(self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Features (R, C, h, w) of ``rois`` (R, 5), index of the image and x1 y1 x2 y2; on the CPU channels_last."""
        layer = self.roi_layers[0]
        if feats[0].device.type != 'cpu' or type(layer) is not RoIAlign or layer.pool_mode != 'avg':
            return super().forward(feats, rois, roi_scale_factor)
        rois = rois.type_as(feats[0])
        levels = self.map_roi_levels(rois, len(feats))
        if roi_scale_factor is not None and len(feats) > 1:  # mmdetection ignores it for a single map
            rois = self.roi_rescale(rois, roi_scale_factor)
        scales = [each.spatial_scale for each in self.roi_layers]
        return pyramid_roi_align(
            feats, rois, levels, layer.output_size, scales[: len(feats)], layer.sampling_ratio, layer.aligned
        )
