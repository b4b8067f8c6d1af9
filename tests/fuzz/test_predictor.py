"""Images of odd sizes, types and values, given to a predictor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from densevit.inference.predictor import Predictor  # noqa: E402
from tests.fuzz.isolated import fuzz, isolated, refused  # noqa: E402
from tests.inference.tiny import DETECT, SEGMENT, config  # noqa: E402
from tests.scope import scope_restored  # noqa: E402


@pytest.mark.parametrize('name', [SEGMENT, DETECT])
def test_odd_images(name):
    with scope_restored(), pytest.warns(UserWarning, match='random'):
        predict = Predictor(config(name), None, device='cpu', window=(64, 96))
    shapes = ((1, 1, 3), (1, 3000, 3), (3000, 1, 3), (1, 2), (2, 1, 4), (97, 3, 3))
    thin = [np.zeros(shape, np.uint8) for shape in shapes]
    odd: list[Any] = [
        *thin, [], [[]], None, 3, '', '\0', '/', b'x', [thin[0], None], (thin[0], thin[4]), {'img': thin[0]},
        np.zeros((0, 3, 3), np.uint8),
        np.full((5, 4, 3), np.nan), np.full((5, 4), np.inf, np.float32), np.zeros((5, 4, 3), np.int64), np.zeros(()),
        np.zeros((3, 5, 4), np.uint8), np.array([None]), np.zeros((5, 4, 3), '>u2'), np.zeros((1, 5, 4, 3)),
    ]  # fmt: skip
    sides = st.sampled_from([1, 2, 7, 33, 64, 65, 100])
    drawn = st.builds(
        lambda height, width, channels, fill: np.full((height, width, channels), fill, np.uint8)[::-1],
        sides, sides, st.sampled_from([1, 3, 4, 2]), st.sampled_from([0, 1, 255]),
    )  # fmt: skip

    @isolated
    def measured() -> None:
        @fuzz(12, st.one_of(st.sampled_from(odd), drawn, st.lists(drawn, max_size=3)))
        def case(given: Any) -> None:
            found = refused(predict, given)
            for each in found if isinstance(found, list) else [found] if found is not None else []:
                height, width = each.image.shape[:2]
                if hasattr(each, 'labels') and name == SEGMENT:
                    assert each.labels.shape == (height, width)
                    assert each.labels.max() < len(each.classes)

    measured()
