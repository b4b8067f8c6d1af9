"""The power law's exponent, the points that are measured, and the picture."""

from __future__ import annotations

import pytest

from densevit.benchmark.growth import draw, exponent, growth
from densevit.benchmark.run import Options
from tests.benchmark.tiny import SWIN_NAME


@pytest.mark.parametrize('power', [1.0, 1.5, 2.0])
def test_exponent(power):
    pixels = [1e4, 3e4, 1e5, 1e6]
    assert exponent(pixels, [7 * p**power for p in pixels]) == pytest.approx(power)


def test_points_and_picture(tmp_path):
    options = Options(rounds=1, warmups=1, memory=False)
    result = growth(SWIN_NAME, options, sides=(64, 96), batches=(1, 2), batch_side=64)
    assert [(point['size'], point['batch']) for point in result['points']] == [
        ([64, 64], 1), ([96, 96], 1), ([64, 64], 2),
    ]  # fmt: skip
    assert set(result['exponents']) == {'time by size', 'time by batch'}
    result['points'][0]['peak_bytes'] = result['points'][1]['peak_bytes'] = 10**8
    draw([result], tmp_path / 'new' / 'growth.png')
    assert (tmp_path / 'new' / 'growth.png').read_bytes()[:4] == b'\x89PNG'
