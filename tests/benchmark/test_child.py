"""Measuring in a process of its own."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from densevit.benchmark.child import in_child
from densevit.benchmark.run import Options, inspect
from densevit.errors import UserError
from tests.benchmark.tiny import SIZE, SWIN_NAME


def test_a_child_measures_a_model():
    result = inspect(SWIN_NAME, Options(size=SIZE, rounds=1, warmups=0))
    assert 0 <= result['peak_bytes'] < 500 * 2**20


def test_a_child_measures_a_case():
    options = asdict(Options(warmups=1))
    result = in_child(dict(kind='case', case='iou_metric', quick=True, rounds=2, options=options, threads=1))
    assert result['name'] == 'iou_metric' and not result['wrong']
    assert result['reached']['ratio'] > 0


def test_a_child_that_fails_says_why():
    with pytest.raises(UserError, match=r"status 1: .*KeyError: 'threads'"):
        in_child({})
