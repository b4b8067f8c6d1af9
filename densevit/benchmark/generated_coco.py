"""Annotations and detections of a made-up data set in COCO's format, of any size, for timing its evaluation."""

from __future__ import annotations

import numpy as np

from ..detection.rle import runs_to_rle

__all__ = ['generated_coco']

_HEIGHT, _WIDTH = 240, 320
_LARGEST = 160  # pixels, of a box as high as wide; the smallest have 8
_SCORES = 4096  # values a score can have: ties occur, as with real scores of 16 bits


def generated_coco(
    images: int, classes: int, truths: int, detections: int, seed: int
) -> tuple[dict, list[dict], list[dict]]:
    """Ellipses in images of 240 x 320, and what an imperfect detector would say about them.

    Most detections lie near a truth, with its class; the rest is anywhere. Scores fall with the distance and are
    rounded, so that some are equal. One truth in fifty is a crowd. The same arguments give the same data.

    Args:
        images: number of images.
        classes: number of categories; their ids are not consecutive.
        truths: annotated instances in total.
        detections: per image.
        seed: of the random numbers.

    Returns:
        The content of an annotation file, results with boxes and results with masks (run-length codes), the last two
        as ``COCO.loadRes`` wants them.
    """
    rng = np.random.default_rng(seed)
    ids = np.arange(1, classes + 1) + np.arange(classes) // 9  # gaps, as in COCO's own
    image = np.sort(rng.integers(0, images, truths))
    label = rng.integers(0, classes, truths)
    size = np.exp(rng.uniform(np.log(8), np.log(_LARGEST), (truths, 1)) + rng.uniform(-0.4, 0.4, (truths, 2)))
    boxes = _inside(rng.uniform(0, 1, (truths, 2)) * ((_WIDTH, _HEIGHT) - size), size)
    crowd = rng.random(truths) < 0.02
    masks, areas = _ellipses(boxes)
    annotations = {
        'info': {},
        'images': [
            {'id': index + 1, 'height': _HEIGHT, 'width': _WIDTH, 'file_name': f'{index + 1}.jpg'}
            for index in range(images)
        ],
        'categories': [{'id': int(each), 'name': f'class {each}'} for each in ids],
        'annotations': [
            {
                'id': index + 1,
                'image_id': where + 1,
                'category_id': category,
                'bbox': box,
                'area': area,
                'iscrowd': many,
                'segmentation': mask,
            }
            for index, (where, category, box, area, many, mask) in enumerate(
                zip(
                    image.tolist(),
                    ids[label].tolist(),
                    boxes.tolist(),
                    areas.tolist(),
                    crowd.astype(int).tolist(),
                    masks,
                )
            )
        ],
    }

    total = images * detections
    where = np.repeat(np.arange(images), detections)
    first, number = np.searchsorted(image, where), np.bincount(image, minlength=images)[where]
    near = (number > 0) & (rng.random(total) < 0.7)
    source = np.where(near, first + np.floor(rng.random(total) * number).astype(int), 0)
    noise = rng.exponential(0.12, (total, 1))
    size = np.exp(rng.uniform(np.log(8), np.log(_LARGEST), (total, 1)) + rng.uniform(-0.4, 0.4, (total, 2)))
    corner = rng.uniform(0, 1, (total, 2)) * ((_WIDTH, _HEIGHT) - size)
    if truths:
        shaken = boxes[source, 2:] * np.exp(noise * rng.normal(0, 1, (total, 2)))
        moved = boxes[source, :2] + noise * boxes[source, 2:] * rng.normal(0, 1, (total, 2))
        size, corner = np.where(near[:, None], shaken, size), np.where(near[:, None], moved, corner)
        right = near & (rng.random(total) < 0.85)
        guessed = np.where(right, label[source], rng.integers(0, classes, total))
    else:
        guessed = rng.integers(0, classes, total)
    found = _inside(corner, size)
    score = np.clip(np.where(near, 0.8 - noise[:, 0], 0.25) + rng.normal(0, 0.15, total), 0.001, 0.999)
    score = np.round(score * _SCORES) / _SCORES
    heads = list(zip((where + 1).tolist(), ids[guessed].tolist(), score.tolist()))
    bbox = [
        {'image_id': each, 'category_id': category, 'bbox': box, 'score': value}
        for (each, category, value), box in zip(heads, found.tolist())
    ]
    segm = [
        {'image_id': each, 'category_id': category, 'segmentation': mask, 'score': value}
        for (each, category, value), mask in zip(heads, _ellipses(found)[0])
    ]
    return annotations, bbox, segm


def _inside(corner: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Boxes x, y, w, h, (N, 4), cut at the border of the image, at least two pixels wide and high."""
    limit = np.array((_WIDTH, _HEIGHT), float)
    low = np.clip(corner, 0, limit - 2)
    high = np.clip(corner + size, low + 2, limit)
    return np.round(np.concatenate((low, high - low), axis=1), 2)


def _ellipses(boxes: np.ndarray) -> tuple[list[dict], np.ndarray]:
    """Run-length codes of the ellipses that fill some boxes, and their areas in pixels."""
    masks: list[dict] = []
    areas = np.zeros(len(boxes))
    for low in range(0, len(boxes), 4096):
        some = boxes[low : low + 4096]
        x, y, w, h = some.T
        left, right = np.floor(x).astype(int), np.minimum(np.ceil(x + w).astype(int), _WIDTH)
        width = right - left
        owner = np.repeat(np.arange(len(some)), width)
        column = np.arange(len(owner)) - np.repeat(np.cumsum(width) - width, width) + left[owner]
        offset = (column + 0.5 - (x + w / 2)[owner]) / (w / 2)[owner]
        reach = np.sqrt(np.clip(1 - offset**2, 0, None)) * (h / 2)[owner]
        middle = (y + h / 2)[owner]
        top = np.clip(np.ceil(middle - reach - 0.5), 0, _HEIGHT).astype(int)
        bottom = np.clip(np.ceil(middle + reach - 0.5), top, _HEIGHT).astype(int)
        seen = bottom > top
        owner, column, top, bottom = owner[seen], column[seen], top[seen], bottom[seen]
        areas[low : low + len(some)] = np.bincount(owner, bottom - top, minlength=len(some))
        changes = np.stack((column * _HEIGHT + top, column * _HEIGHT + bottom), axis=1).flatten()
        owner = np.repeat(owner, 2)
        # a column of ones to the very edge goes on in the next
        same = np.flatnonzero((changes[1:-1:2] == changes[2::2]) & (owner[1:-1:2] == owner[2::2]))
        changes, owner = (np.delete(each, np.concatenate((2 * same + 1, 2 * same + 2))) for each in (changes, owner))
        masks += runs_to_rle(changes, np.bincount(owner, minlength=len(some)), (_HEIGHT, _WIDTH))
    return masks, areas
