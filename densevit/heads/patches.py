"""Which pixels the patches of a map stand for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

__all__ = ['interpolation', 'overlap', 'patch_edges', 'patch_truth', 'valid_box', 'valid_patches']


def patch_edges(size: int, count: int, stride: int | None = None) -> Tensor:
    """Where an axis of ``size`` pixels is cut into the ``count`` patches of a map, in pixels; float64, (count + 1,).

    Patch i begins at i * stride, and the last one ends with the image, whether the backbone pads a remainder (Swin) or
    drops it (PVT). Without a stride, or with one that cannot be, all patches are equally large.
    """
    if stride is None or not stride * (count - 1) < size < stride * (count + 1):
        return torch.arange(count + 1, dtype=torch.float64) * (size / count)
    edges = torch.arange(count + 1, dtype=torch.float64) * stride
    edges[-1] = size
    return edges


def overlap(edges: Tensor, size: int) -> Tensor:
    """How much of each pixel of an axis each patch covers, 0 to 1; float64, (patches, size)."""
    pixels = torch.arange(size, dtype=torch.float64)
    low, high = edges[:-1, None], edges[1:, None]
    return (torch.minimum(high, pixels + 1) - torch.maximum(low, pixels)).clamp_(min=0)


def interpolation(edges: Tensor, size: int) -> Tensor:
    """Weights that interpolate an axis linearly between the centres of patches; float64, (size, patches).

    Beyond the outer centres the outer patches go on, as in torch's bilinear interpolation.
    """
    centres = (edges[:-1] + edges[1:]) / 2
    weights = torch.zeros(size, len(centres), dtype=torch.float64)
    if len(centres) == 1:
        return weights + 1
    at = torch.arange(size, dtype=torch.float64) + 0.5
    right = torch.searchsorted(centres, at).clamp_(1, len(centres) - 1)
    part = ((at - centres[right - 1]) / (centres[right] - centres[right - 1])).clamp_(0, 1)
    weights.scatter_(1, right[:, None], part[:, None])
    return weights.scatter_(1, right[:, None] - 1, 1 - part[:, None])


def valid_box(meta: dict, size: Sequence[int]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the image in the input, in pixels; around it is the padding of the batch."""
    left, _, top, _ = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
    height, width = meta.get('img_shape', size)[:2]
    return top, min(top + height, size[0]), left, min(left + width, size[1])


def valid_patches(edges: Tensor, start: int, stop: int) -> Tensor:
    """Which patches lie in the image by half or more, bool; the fullest one where none does."""
    centres = (edges[:-1] + edges[1:]) / 2
    valid = (centres >= start) & (centres <= stop)
    if not valid.any():
        valid[(edges[1:].clamp(max=stop) - edges[:-1].clamp(min=start)).argmax()] = True
    return valid


def patch_truth(sample: BaseDataElement, rows: Tensor, columns: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """How much of each patch each class covers, and where the truth leaves a class open.

    Args:
        sample: with ``gt_sem_seg``, or with ``gt_instances``, whose masks are taken where there are some, and else the
            boxes; as large as the input of the model. Labels that are no class are nobody's.
        rows, columns: edges of the patches, see :func:`patch_edges`.
        num_classes: K.

    Returns:
        Shares 0 to 1, (K, h, w), and bool of the same shape: patches that an ignored instance (a crowd) touches.
    """
    size = (len(rows) - 1, len(columns) - 1)
    unknown = torch.zeros(num_classes, *size, dtype=torch.bool)
    if 'gt_sem_seg' in sample:
        labels = sample.gt_sem_seg.data[0]
        return _label_shares(labels, rows, columns, num_classes), unknown.to(labels.device)
    shares = torch.zeros(num_classes, *size)
    instances = sample.gt_instances
    labels = instances.labels.cpu()
    down, across = (overlap(edges, round(float(edges[-1]))).float() for edges in (rows, columns))
    areas = (rows.diff()[:, None] * columns.diff()).float()
    if 'masks' in instances:
        masks = torch.from_numpy(instances.masks.to_ndarray())
        height, width = masks.shape[1:]
        for label in labels.unique():
            union = masks[labels == label].amax(0).float()
            shares[label] = down[:, :height] @ union @ across[:, :width].T / areas
    else:
        for label, share in zip(labels, _box_shares(instances.bboxes, rows, columns)):
            shares[label] = torch.maximum(shares[label], share)
    ignored = sample.get('ignored_instances', {})
    if 'bboxes' in ignored and 'labels' in ignored:
        for label, share in zip(ignored.labels.cpu(), _box_shares(ignored.bboxes, rows, columns)):
            unknown[label] |= share > 0
    device = instances.labels.device
    return shares.to(device), unknown.to(device)


def _label_shares(labels: Tensor, rows: Tensor, columns: Tensor, num_classes: int) -> Tensor:
    """Pixels are counted as integers; one on an edge goes to the patch that has its centre."""
    size = (len(rows) - 1, len(columns) - 1)
    down, across = (
        torch.searchsorted(edges[1:].contiguous(), torch.arange(pixels) + 0.5).clamp_(max=len(edges) - 2)
        for edges, pixels in ((rows, labels.shape[0]), (columns, labels.shape[1]))
    )
    cells = (down[:, None] * size[1] + across).to(labels.device)
    labels = labels.long()
    labels = torch.where((labels >= 0) & (labels < num_classes), labels, num_classes)
    bins = num_classes + 1
    counts = torch.bincount((cells * bins + labels).flatten(), minlength=size[0] * size[1] * bins).view(*size, bins)
    return (counts[..., :num_classes] / counts.sum(-1, keepdim=True).clamp(min=1)).permute(2, 0, 1)


def _box_shares(boxes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N, h, w): the part of each patch that each box covers."""
    boxes = getattr(boxes, 'tensor', boxes).cpu().double()

    def covered(edges: Tensor, low: Tensor, high: Tensor) -> Tensor:
        inside = torch.minimum(edges[1:], high[:, None]) - torch.maximum(edges[:-1], low[:, None])
        return inside.clamp(min=0) / edges.diff()

    down, across = covered(rows, boxes[:, 1], boxes[:, 3]), covered(columns, boxes[:, 0], boxes[:, 2])
    return (down[:, :, None] * across[:, None, :]).float()
