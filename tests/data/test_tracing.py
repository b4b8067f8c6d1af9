"""What a transform did is seen in the image before it and after it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('mmengine')

from mmengine.dataset import Compose  # noqa: E402

from densevit.data.tracing import Placement, Trace, by_sides, watch  # noqa: E402

HEIGHT, WIDTH = 37, 53


class RandomCrop:
    """A view, as the mm packages cut."""

    def __init__(self, top: int, left: int, height: int, width: int) -> None:
        self.rows, self.columns = slice(top, top + height), slice(left, left + width)

    def __call__(self, data: dict) -> dict:
        return {**data, 'img': data['img'][self.rows, self.columns]}


class RandomFlip:
    """A view, as the mm packages flip."""

    def __init__(self, *axes: int) -> None:
        self.axes = axes

    def __call__(self, data: dict) -> dict:
        return {**data, 'img': np.flip(data['img'], self.axes)}


class PhotoMetricDistortion:
    """Writes into the image that it got."""

    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, data: dict) -> dict:
        data['img'] += self.by
        return data


class Dropping:
    def __call__(self, data: dict) -> None:
        return None


def traced(*steps) -> tuple[Trace, np.ndarray | None]:
    """What the trace says, and the image: each pixel of it is its column and its row in the original."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    pipeline, trace = Compose(list(steps)), Trace()
    watch(pipeline, trace)
    result = pipeline({'img': np.stack([columns, rows], -1)})
    return trace, result and result['img']


@pytest.mark.parametrize(
    'steps',
    [
        [RandomCrop(3, 5, 20, 31), RandomFlip(1), RandomCrop(2, 7, 11, 9)],
        [RandomFlip(0), RandomCrop(1, 2, 30, 40), RandomFlip(0, 1), RandomCrop(4, 0, 5, 6)],
        [RandomFlip(0, 1), RandomCrop(0, 3, 20, 20), RandomFlip(0), RandomFlip(1)],
        [RandomFlip(1), RandomCrop(36, 0, 1, 53)],
    ],
)
def test_views_of_views(steps):
    trace, image = traced(*steps)
    place = trace.placement
    rows, columns = np.indices(image.shape[:2])
    expected = np.stack([place.left + (columns + 0.5) * place.dx, place.top + (rows + 0.5) * place.dy], -1) - 0.5
    assert np.array_equal(image, expected)
    assert len(trace.steps) == len(steps)


def test_words():
    trace, _ = traced(RandomCrop(3, 5, 20, 31), RandomFlip(1), RandomFlip(0, 1), RandomCrop(0, 0, 99, 99))
    assert trace.steps == [
        f'RandomCrop: 20 x 31 of {HEIGHT} x {WIDTH}, from x 5 and y 3', 'RandomFlip: flipped horizontally',
        'RandomFlip: flipped both ways', 'RandomCrop: left as it was',
    ]  # fmt: skip
    assert trace.placement == Placement(5, 23, 1, -1)
    assert trace.placement == Placement(5, 23, 1, -1)
    trace.reset()
    assert (trace.steps, trace.placement, trace.labels_at) == ([], Placement(), None)
    assert by_sides((4, 5, 3)) == '4 x 5'


def test_what_is_written_into_the_image_is_seen():
    trace, _ = traced(PhotoMetricDistortion(0), PhotoMetricDistortion(3))
    assert trace.steps == ['PhotoMetricDistortion: left as it was', 'PhotoMetricDistortion: colours changed']
    assert trace.placement == Placement()


def test_an_image_that_is_dropped():
    trace, image = traced(Dropping(), RandomFlip(1))
    assert image is None and trace.steps == ['Dropping: dropped the image']
