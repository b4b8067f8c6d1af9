"""Statistics, turns, and when a ratio is refused."""

from __future__ import annotations

import pytest
import torch

from densevit.benchmark.measure import (
    FLOOR,
    TOLERANCES,
    Difference,
    Row,
    Side,
    Timing,
    compare,
    duel,
    interleave,
    timer,
)


def side(label: str, value: float = 1.0, log: list | None = None, **options) -> Side:
    """Gives a number, and notes when it runs."""
    log = [] if log is None else log
    return Side(label, lambda: log.append(label), lambda: {'map': torch.tensor([value, 4.0])}, **options)


def fake_clock(seconds: dict[str, float], log: list[str]):
    """A clock that looks up what has run."""

    def clock(run):
        run()
        return seconds[log[-1]]

    return clock


def test_median_and_quartiles():
    timing = Timing((4.0, 1.0, 2.0, 10.0, 3.0))
    assert timing.median == 3.0
    assert timing.quartiles == (2.0, 4.0)
    assert timing.to_json() == {'median_s': 3.0, 'quartiles_s': [2.0, 4.0], 'rounds': 5}


def test_sides_take_turns_in_alternating_order():
    log: list[str] = []
    sides = [side(label, log=log) for label in 'abc']
    timings = interleave(sides, rounds=3, warmups=2, clock=fake_clock({'a': 1.0, 'b': 2.0, 'c': 3.0}, log))
    assert ''.join(log) == 'abccbaabccbaabc'
    assert [timing.samples for timing in timings] == [(1.0,) * 3, (2.0,) * 3, (3.0,) * 3]


def test_what_comes_before_a_round_is_not_timed():
    log: list[str] = []
    first = side('a', log=log, before=lambda: log.append('before'))
    interleave([first], rounds=2, warmups=0, clock=fake_clock({'a': 1.0}, log))
    assert log == ['before', 'a', 'before', 'a']


def test_a_ratio_is_the_peers_median_by_ours():
    log: list[str] = []
    rows = duel(
        [side('ours', log=log), side('peer', log=log)],
        dtype='float32', rounds=3, clock=fake_clock({'ours': 2.0, 'peer': 5.0}, log),
    )  # fmt: skip
    assert [row.ratio for row in rows] == [None, 2.5]
    assert rows[0].difference is None and rows[1].difference == Difference()
    assert not any(row.is_wrong for row in rows)


@pytest.mark.parametrize('dtype', ['float32', 'bf16'])
def test_no_ratio_where_outputs_differ(dtype):
    limit = 4.0 * TOLERANCES[dtype]
    rows = duel(
        [side('ours'), side('close', 1 + 0.9 * limit), side('far', 1 + 1.1 * limit), side('known', 3.0, differs='so')],
        dtype=dtype, rounds=1,
    )  # fmt: skip
    ours, close, far, known = rows
    assert close.ratio is not None and not close.is_wrong
    assert far.ratio is None and far.is_wrong
    assert far.difference.relative == pytest.approx(1.1 * TOLERANCES[dtype], rel=1e-4)
    assert known.ratio is None and not known.is_wrong
    assert far.to_json()['ratio'] is None and known.to_json()['expected_to_differ'] == 'so'
    strict = duel([side('ours'), side('close', 1 + 0.9 * limit)], dtype=dtype, rounds=1, tolerance=0.1 * limit)
    assert strict[1].is_wrong


def test_differences_by_kind():
    ours = {'map': torch.tensor([1.0, -8.0]), 'labels': torch.tensor([1, 2, 3, 4])}
    found = compare(ours, {'map': torch.tensor([1.5, -8.0]), 'labels': torch.tensor([1, 2, 3, 5])})
    assert (found.absolute, found.relative, found.labels) == (0.5, 0.0625, 0.25)
    assert not found.within('float32') and not Difference(labels=0.25).within('float32')
    assert Difference(labels=1e-5).within('float32') and not Difference(labels=1e-5).within('float64')
    assert '6.2e-02' in str(found) and '2.5e-01 of the labels' in str(found)


def test_small_outputs_are_measured_against_the_largest():
    large, tiny = torch.tensor([100.0]), torch.tensor([1e-6])
    found = compare({'a': large, 'b': tiny}, {'a': large, 'b': -tiny})
    assert found.relative == pytest.approx(2e-6 / (FLOOR * 100))


@pytest.mark.parametrize(
    ('theirs', 'message'),
    [
        ({'other': torch.ones(2)}, 'other'),
        ({'map': torch.ones(3)}, r'\(3,\) instead of \(2,\)'),
        ({'map': torch.tensor([1.0, float('nan')])}, 'not finite'),
    ],
)
def test_what_cannot_be_compared_is_no_match(theirs, message):
    found = compare({'map': torch.ones(2)}, theirs)
    assert not found.within('bf16', 1e9)
    with pytest.raises(AssertionError, match=message):
        assert not found.mismatch, found.mismatch
    assert Row('peer', Timing((1.0,)), found).is_wrong


def test_our_outputs_can_be_turned_into_what_a_peer_gives():
    peer = Side('peer', lambda: None, lambda: {'half': torch.tensor([0.5, 2.0])},
                expected=lambda found: {'half': found['map'] / 2})  # fmt: skip
    assert duel([side('ours'), peer], dtype='float32', rounds=1)[1].ratio is not None


def test_the_clock_of_the_cpu():
    seconds = timer(torch.device('cpu'))(lambda: sum(range(10_000)))
    assert 0 < seconds < 10
