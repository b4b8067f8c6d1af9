"""mmsegmentation's segmentor, without logits of full size: label maps faster and in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder as MmsegEncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor

from ..heads.attached import WithClassAttention
from ..heads.map_of_windows import MapOfWindows
from ..layers.interpolation import Span
from ..layers.label_map import (
    CroppedMap,
    LogitMap,
    MeanOfWindows,
    ResizedMap,
    StoredMap,
    label_map,
    window_starts,
)
from ..registry import MODELS

__all__ = ['EncoderDecoder', 'LazyLogits']


@MODELS.register_module()
class EncoderDecoder(WithClassAttention, MmsegEncoderDecoder):
    """mmsegmentation's ``EncoderDecoder`` with the same configuration, parameters and results.

    ``predict`` goes from the logits of the head to the label map block by block (:mod:`densevit.layers.label_map`).
    A data sample's ``seg_logits`` are made when they are first asked for. Label maps are those of mmsegmentation, but
    where its two best logits are equal or differ by the rounding of float32; logits in half precision are resized in
    float32, so their ties are fewer.

    ``test_cfg``:
        mode: ``'whole'`` (default), or ``'slide'``: windows over the input, whose logits are averaged where they meet.
        crop_size, stride: of the windows, (height, width) in pixels.
        crop_batch: windows of an image that go through the network at once; by default 1 on a CPU, where more gain
            nothing, and 4 elsewhere.

    ``class_attention``, a config of :class:`densevit.ClassAttentionHead`, adds that head. Predicted samples then have
    a ``class_attention`` of their own; with sliding windows it looks at the whole image, on the mean of the windows'
    maps.
    """

    def __init__(
        self,
        backbone: dict,
        decode_head: dict,
        neck: dict | None = None,
        auxiliary_head: dict | list | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        pretrained: str | None = None,
        init_cfg: dict | list | None = None,
        *,
        class_attention: dict | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            decode_head=decode_head,
            neck=neck,
            auxiliary_head=auxiliary_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            pretrained=pretrained,
            init_cfg=init_cfg,
        )
        self._build_class_attention(class_attention)

    def loss(self, inputs: Tensor, data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        """Losses of a batch."""
        if self.class_attention is None:
            return super().loss(inputs, data_samples)
        maps = self.extract_feat(inputs)
        losses = self._decode_head_forward_train(maps, data_samples)
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(maps, data_samples))
        return {**losses, **self._presence_loss(maps, inputs, data_samples)}

    def predict(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        """Label maps of a batch, (B, 3, H, W), in ``pred_sem_seg`` of the samples, and logits in ``seg_logits``.

        Both have the size of the original image (``ori_shape``) where there are samples, else that of the input.
        A network with one channel has probabilities instead of logits, and labels 0.0 and 1.0, as in mmsegmentation.

        Raises:
            ValueError: an unknown mode, or an image flipped otherwise than horizontally or vertically.
        """
        size = tuple(inputs.shape[2:])
        metas = (
            [dict(img_shape=size)] * len(inputs) if data_samples is None else [each.metainfo for each in data_samples]
        )
        maps, last = self._logit_maps(inputs, metas)
        if data_samples is None:
            data_samples = [SegDataSample() for _ in maps]
        else:
            maps = [self._as_original(logits, meta) for logits, meta in zip(maps, metas)]
        for sample, logits in zip(data_samples, maps):
            if len(logits.logits) == 1:
                probability = logits.whole()[0].sigmoid()
                found = PixelData(data=probability)
                labels = (probability > self.decode_head.threshold).to(probability)
            else:
                found, labels = LazyLogits(logits), label_map(logits)[None]
            sample.set_data(dict(seg_logits=found, pred_sem_seg=PixelData(data=labels)))
        if last is not None:
            self._add_class_attention(last, data_samples, size)
        return data_samples

    def _logit_maps(self, inputs: Tensor, metas: list[dict[str, Any]]) -> tuple[list[LogitMap], Tensor | None]:
        """The logits of each image, as large as the input, and the backbone's last map where somebody asks for it."""
        mode = (self.test_cfg or {}).get('mode', 'whole')
        if mode == 'whole':
            shape = metas[0].get('pad_shape', metas[0]['img_shape'])
            return self._head_maps(inputs, metas, shape[:2])
        if mode == 'slide':
            return self._sliding_maps(inputs, metas)
        raise ValueError(f"test_cfg.mode={mode!r}: give 'whole' or 'slide'.")

    def _head_maps(
        self, inputs: Tensor, metas: list[dict[str, Any]], size: tuple[int, int]
    ) -> tuple[list[LogitMap], Tensor | None]:
        kind = type(self.decode_head)
        if type(self).encode_decode is not MmsegEncoderDecoder.encode_decode:  # a segmentor with a way of its own
            maps = [StoredMap(each) for each in self.encode_decode(inputs, metas)]
            return maps, None if self.class_attention is None else self.backbone(inputs)[-1]
        maps = self.extract_feat(inputs)
        if kind.predict is BaseDecodeHead.predict and kind.predict_by_feat is BaseDecodeHead.predict_by_feat:
            found = [ResizedMap(StoredMap(each), size, self.align_corners) for each in self.decode_head(maps)]
        else:  # a head with a way of its own to logits as large as the input
            found = [StoredMap(each) for each in self.decode_head.predict(maps, metas, self.test_cfg)]
        return found, getattr(maps, 'last', None)

    def _sliding_maps(self, inputs: Tensor, metas: list[dict[str, Any]]) -> tuple[list[LogitMap], Tensor | None]:
        size, batch = tuple(inputs.shape[2:]), len(inputs)
        height, width = (min(crop, whole) for crop, whole in zip(self.test_cfg['crop_size'], size))
        down, across = (
            window_starts(whole, crop, stride)
            for whole, crop, stride in zip(size, self.test_cfg['crop_size'], self.test_cfg['stride'])
        )
        corners = [(row, col) for row in down for col in across]
        at_once = self.test_cfg.get('crop_batch', 1 if inputs.device.type == 'cpu' else 4)
        crop_metas = [{**meta, 'img_shape': torch.Size((height, width))} for meta in metas]
        windows: list[list[tuple[LogitMap, int, int]]] = [[] for _ in range(batch)]
        whole_map = None if self.class_attention is None else MapOfWindows((height, width), self.class_attention.stride)
        for start in range(0, len(corners), at_once):
            some = corners[start : start + at_once]
            crops = torch.cat([inputs[:, :, row : row + height, col : col + width] for row, col in some])
            maps, last = self._head_maps(crops, crop_metas * len(some), (height, width))
            for index, logits in enumerate(maps):
                windows[index % batch].append((logits, *some[index // batch]))
            if whole_map is not None:
                for corner, each in zip(some, last.split(batch)):
                    whole_map.add(each, *corner)
        return [MeanOfWindows(each, size) for each in windows], None if whole_map is None else whole_map.mean()

    def _as_original(self, logits: LogitMap, meta: dict[str, Any]) -> LogitMap:
        """Without padding and flip, as large as the original image."""
        height, width = logits.size
        left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
        flip = meta.get('flip_direction') if meta.get('flip') else None
        if meta.get('flip') and flip not in ('horizontal', 'vertical'):
            raise ValueError(f"flip_direction={flip!r}: segmentation undoes 'horizontal' and 'vertical' flips only.")
        if flip or any((left, right, top, bottom)):
            logits = CroppedMap(logits, Span(top, height - bottom), Span(left, width - right), flip)
        return ResizedMap(logits, meta['ori_shape'][:2], self.align_corners)


class LazyLogits(PixelData):
    """Pixel data whose ``data`` is computed when it is first read, by whatever way.

    mmengine's evaluator turns all samples into dictionaries, for metrics that read the label map only: the dictionary
    of these logits computes them when they are read, too.

    Args:
        source: what gives the data; None: pixel data as any other.
    """

    def __init__(self, source: LogitMap | None = None, *, metainfo: dict[str, Any] | None = None) -> None:
        super().__init__(metainfo=metainfo)
        if source is not None:
            self._data_fields.add('data')
            self.__dict__['_source'] = source

    def __getattr__(self, name: str) -> Any:
        if name != 'data' or '_source' not in self.__dict__:
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')
        data = self.__dict__['data'] = self.__dict__.pop('_source').whole()[0]
        return data

    @property
    def logit_map(self) -> LogitMap | None:
        """What the data is computed from, which gives any part of it too; None once it is computed."""
        return self.__dict__.get('_source')

    def pop(self, *args: Any) -> Any:
        """Remove a field and return its value."""
        self.get('data')
        return super().pop(*args)

    def __delattr__(self, name: str) -> None:
        self.get('data')
        super().__delattr__(name)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Height and width, which are known before."""
        return self._source.size if '_source' in self.__dict__ else super().shape

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that reads from here."""
        return _LazyDict(self)


class _LazyDict(dict):
    """The fields of an element as a dictionary that reads them when asked for their values."""

    def __init__(self, element: LazyLogits) -> None:
        super().__init__(dict.fromkeys(element.all_keys()))
        self._element = element

    def __iter__(self) -> Iterator[str]:  # or dict(...) and {**...} would copy without asking for the values
        return iter(self.keys())

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)  # raises
        return getattr(self._element, key) if value is None else value

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default

    def values(self) -> list[Any]:
        return [self[key] for key in self]

    def items(self) -> list[tuple[str, Any]]:
        return [(key, self[key]) for key in self]

    def copy(self) -> dict[str, Any]:
        return dict(self.items())

    def pop(self, key: str, *default: Any) -> Any:
        if key in self:
            self[key] = self[key]
        return super().pop(key, *default)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.copy(),)
