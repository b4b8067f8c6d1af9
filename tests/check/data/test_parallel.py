"""Several processes find what one finds, in the same order; one that dies is no hang."""

from __future__ import annotations

import os
import sys

import pytest
from rich.console import Console

from densevit.check.data.parallel import Crew
from densevit.errors import UserError
from tests.check.data.planted import coco, noise, segmentation, values

SCALE = int(os.environ.get('DENSEVIT_TEST_SCALE', 1))  # 417 for 25,000 images
linux = pytest.mark.skipif(sys.platform != 'linux', reason='a worker of these tests is forked')


@linux
@pytest.mark.parametrize('workers', [0, 1, 2, 3])
def test_results_are_in_the_order_of_the_items(workers):
    items = list(range(107))
    found = list(Crew(workers).run(_square, items, 'numbers', size=5))
    assert [square for square, _ in found] == [item**2 for item in items]
    assert (len({process for _, process in found} - {os.getpid()}) > 0) == (workers > 1)


def _square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


@linux
def test_a_worker_that_dies_is_named_with_what_it_looked_at():
    with pytest.raises(UserError, match=r"a worker of the check died.* numbers from '\d+' to '\d+'; take fewer"):
        list(Crew(2).run(_die_at_seventy, range(100), 'numbers', size=5))


def _die_at_seventy(number: int) -> int:
    if number == 70:
        os._exit(9)
    return number


def test_an_error_of_the_work_comes_through():
    with pytest.raises(ZeroDivisionError):
        list(Crew(2).run(_invert, range(100), 'numbers', size=5))


def _invert(number: int) -> float:
    return 1 / (number - 70)


def test_a_bar_counts_all_items(monkeypatch, capsys):
    monkeypatch.setattr('densevit.check.data.parallel.Console', lambda stderr: Console(stderr=stderr, width=100))
    assert len(list(Crew(0, progress=True).run(str, range(7), 'images'))) == 7
    written = capsys.readouterr()
    assert 'images' in written.err and '7/7' in written.err and not written.out


@linux
def test_workers_find_what_one_process_finds(tmp_path):
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    planted = segmentation(tmp_path / 'segmentation')
    for number in range(60 * SCALE):
        planted.save(f'images/train/{number:02}.jpg', noise(str(number), 30, 44, 3))
        planted.save(f'labels/train/{number:02}.png', values(0, 1, 2 + 3 * (number % 20 == 7), size=(30, 44)))
    (tmp_path / 'segmentation/images/train/33.jpg').write_bytes(b'')
    alone, together = planted.check(workers=0), planted.check(workers=2)
    assert alone == together
    assert {each.kind for each in alone[0].findings} == {'image-unreadable', 'label-out-of-range'}
    planted = coco(tmp_path / 'coco')
    content = planted.content['train.json']
    content['annotations'] *= 1500
    for number, each in enumerate(content['annotations']):
        content['annotations'][number] = dict(each, id=number, area=0 if number % 1000 == 9 else each['area'])
    alone, together = planted.check(workers=0), planted.check(workers=2)
    assert alone == together and 'area-zero' in {each.kind for each in alone[0].findings}
