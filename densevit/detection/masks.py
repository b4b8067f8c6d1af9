"""Instance masks that are pasted into the image when somebody looks at their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .rle import encode_crops

__all__ = ['PastedMasks']

_AT_ONCE = 2**30 // 4  # pixels that a GPU pastes at once


class PastedMasks(Tensor):
    """A bool tensor (N, H, W) of masks that are known as small maps of probabilities in boxes.

    It is what mmdetection's mask head makes, pixel for pixel, and any operation takes it as that. But the pixels are
    computed when the first operation asks for them, and :meth:`encode` does not: it computes each mask inside its box
    and writes run lengths from there. Copies, pickles and moves to another device are of the small maps.

    Args:
        probabilities: (N, m, m).
        boxes: (N, 4), x1 y1 x2 y2 in pixels of the image.
        size: height and width of the image.
        threshold: from this probability on a pixel belongs to the mask.
    """

    _state: _Pasting

    @staticmethod
    def __new__(cls, probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> PastedMasks:
        return cls._of(_Pasting(probabilities, boxes, (int(size[0]), int(size[1])), float(threshold)))

    @classmethod
    def _of(cls, state: _Pasting) -> PastedMasks:
        shape = (len(state.boxes), *state.size)
        self = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool, device=state.boxes.device)
        self._state = state
        return self

    def dense(self) -> Tensor:
        """The pixels as an ordinary tensor; the same one at every call."""
        return self._state.dense()

    def encode(self) -> list[dict[str, Any]]:
        """COCO's run-length codes, ``size`` and ``counts`` as bytes, as ``pycocotools.mask.encode`` gives them."""
        return self._state.encode()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The pixels as an array."""
        return self.dense().numpy(force=force)

    def share_memory_(self) -> Tensor:
        """The pixels, in memory that other processes can read."""
        return self.dense().share_memory_()

    def tolist(self) -> list:
        """The pixels as nested lists."""
        return self.dense().tolist()

    def __repr__(self) -> str:
        return repr(self.dense())

    def __deepcopy__(self, memo: dict[int, Any]) -> PastedMasks:
        copy = memo[id(self)] = self._of(self._state.copied())
        return copy

    def __reduce_ex__(self, protocol: int) -> tuple:
        return _restore, (self._state.copied(),)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.detach.default:
            return cls._of(args[0]._state)
        if func is torch.ops.aten._to_copy.default and not {*kwargs} - {'device', 'non_blocking'}:
            return cls._of(args[0]._state.copied(kwargs['device']))
        args, kwargs = tree_map_only(PastedMasks, PastedMasks.dense, (args, kwargs))
        return func(*args, **kwargs)


def _restore(state: _Pasting) -> PastedMasks:
    return PastedMasks._of(state)


class _Pasting:
    """The small maps behind some masks, and their pixels once these were made."""

    def __init__(self, probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> None:
        self.probabilities = probabilities
        self.boxes = boxes
        self.size = size
        self.threshold = threshold
        self._dense: Tensor | None = None

    def copied(self, device: Any = None) -> _Pasting:
        device = self.boxes.device if device is None else device
        copy = _Pasting(self.probabilities.to(device), self.boxes.to(device), self.size, self.threshold)
        if self._dense is not None:
            copy._dense = self._dense.to(device, copy=True)
        return copy

    def dense(self) -> Tensor:
        if self._dense is None:
            # an ordinary tensor also if this is asked for in inference mode: somebody may change it later
            with torch.inference_mode(False), torch.no_grad():
                masks = torch.zeros(len(self.boxes), *self.size, dtype=torch.bool, device=self.boxes.device)
                if masks.is_cuda:
                    self._paste_at_once(masks)
                else:
                    self._paste_one_by_one(masks)
                self._dense = masks
        return self._dense

    def encode(self) -> list[dict[str, Any]]:
        if self._dense is None:
            with torch.no_grad():
                return encode_crops(*self._crops(), self.size)
        height, width = self.size  # whoever has seen the pixels may have changed them
        columns = F.pad(self._dense.cpu().transpose(1, 2), (0, 1)).flatten().numpy()
        return encode_crops(columns, [(0, 0, width, height)] * len(self._dense), self.size)

    def _paste_one_by_one(self, masks: Tensor) -> None:
        crops, rectangles = self._crops()
        crops, at = torch.from_numpy(crops), 0
        for mask, (left, top, width, height) in zip(masks, rectangles):
            crop = crops[at : at + width * (height + 1)].view(width, height + 1)[:, :height]
            mask[top : top + height, left : left + width] = crop.t()
            at += width * (height + 1)

    def _paste_at_once(self, masks: Tensor) -> None:
        step = max(1, _AT_ONCE // max(1, self.size[0] * self.size[1]))
        for low in range(0, len(masks), step):
            some = slice(low, low + step)
            pasted, _ = _do_paste_mask(self.probabilities[some, None], self.boxes[some], *self.size, skip_empty=False)
            masks[some] = pasted >= self.threshold

    def _crops(self) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
        """Each mask inside a rectangle around its box, as :func:`encode_crops` wants them.

        Coordinates are formed and sampled as mmdetection does, so the pixels are the same to the last one.
        """
        maps = self.probabilities.float().cpu()[:, None]
        boxes = self.boxes.float().cpu()
        limit = torch.tensor(self.size[::-1])
        low = (boxes[:, :2].floor() - 1).clamp(min=0).int()
        high = torch.minimum((boxes[:, 2:].ceil() + 1).int(), limit)
        extent = (high - low).clamp(min=0)
        extent[(extent == 0).any(dim=1)] = 0
        rectangles = torch.cat((low, extent), dim=1).tolist()
        # mmdetection pastes a box whatever its extent; places along both axes, from -1 to 1 over the box
        steps = torch.arange(int(extent.max()) if len(extent) else 0)
        places = (low[:, :, None] + steps).float() + 0.5  # (N, 2, longest)
        begin, end = boxes[:, :2, None], boxes[:, 2:, None]
        places = (places - begin) / (end - begin) * 2 - 1
        places.masked_fill_(places.isinf(), 0)
        sizes = [width * (height + 1) for _, _, width, height in rectangles]
        crops = torch.zeros(sum(sizes), dtype=torch.bool)
        for index, (crop, (_, _, width, height)) in enumerate(zip(crops.split(sizes), rectangles)):
            if width == 0:
                continue
            grid = torch.empty(1, height, width, 2)
            grid[..., 0] = places[index, 0, :width]
            grid[..., 1] = places[index, 1, :height, None]
            sampled = F.grid_sample(maps[index : index + 1], grid, align_corners=False)[0, 0]
            torch.ge(sampled.t(), self.threshold, out=crop.view(width, height + 1)[:, :height])
        return crops.numpy(), [tuple(each) for each in rectangles]
