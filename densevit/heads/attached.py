"""What segmentors and detectors with a class attention head do beside their own work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..registry import MODELS

__all__ = ['CarriedMaps', 'WithClassAttention']


class CarriedMaps(tuple):
    """The maps that a model's heads take, and the backbone's last one as ``last``."""

    last: Tensor

    def __new__(cls, maps: Iterable[Tensor], last: Tensor) -> CarriedMaps:
        carried = super().__new__(cls, maps)
        carried.last = last
        return carried


class WithClassAttention:
    """To be inherited before mmsegmentation's or mmdetection's model; see :class:`densevit.ClassAttentionHead`.

    Without a head the model is what it was.
    """

    class_attention: nn.Module | None  # a class attribute with a value would hide the module

    def _build_class_attention(self, cfg: Mapping[str, Any] | None) -> None:
        """Build the head; its size follows from the model.

        Raises:
            ValueError: the backbone does not tell its channels and neither does ``cfg``, or ``cfg`` has other numbers.
        """
        if cfg is None:
            self.class_attention = None
            return
        channels = getattr(self.backbone, 'out_channels', None)
        strides = getattr(self.backbone, 'out_strides', None)
        known: dict[str, Any] = {'num_classes': _num_classes(self)}
        if isinstance(channels, Sequence):
            known['in_channels'] = channels[-1]
        elif 'in_channels' not in cfg:
            raise ValueError(
                f'class_attention: {type(self.backbone).__name__} does not tell the channels of its last map; write '
                'them as class_attention.in_channels.'
            )
        for name, value in known.items():
            if cfg.get(name, value) != value:
                raise ValueError(f'class_attention.{name}={cfg[name]}, but the model has {value}; leave it out.')
        if isinstance(strides, Sequence):
            known['stride'] = strides[-1]
        self.class_attention = MODELS.build({**known, **cfg})

    def extract_feat(self, inputs: Tensor) -> Any:
        """The maps for the heads; with class attention the backbone's last map comes with them."""
        if self.class_attention is None:
            return super().extract_feat(inputs)
        maps = self.backbone(inputs)
        return CarriedMaps(self.neck(maps) if self.with_neck else maps, maps[-1])

    def _presence_loss(self, maps: Any, inputs: Tensor, samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        if self.class_attention is None:
            return {}
        losses = self.class_attention.loss(maps.last, samples, inputs.shape[2:])
        return {f'class_attention.{name}': value for name, value in losses.items()}

    def _add_class_attention(self, last: Tensor, samples: Sequence[BaseDataElement], size: Sequence[int]) -> None:
        """Give each sample its ``class_attention``."""
        found = self.class_attention.predict(last, [sample.metainfo for sample in samples], size)
        for sample, attention in zip(samples, found, strict=True):
            sample.class_attention = attention


def _num_classes(model: nn.Module) -> int:
    """Of the head that predicts."""
    head = next(getattr(model, name) for name in ('decode_head', 'roi_head', 'bbox_head') if hasattr(model, name))
    head = getattr(head, 'bbox_head', head)
    return (head[-1] if isinstance(head, nn.ModuleList) else head).num_classes
