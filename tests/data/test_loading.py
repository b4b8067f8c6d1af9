"""A file that is of no use to training is named, whichever sample brings it up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit.data.loading import name_unreadable_files, why_unreadable
from densevit.errors import UserError
from tests.fresh import run_forked

pytest.importorskip('mmseg')

from mmseg.datasets import BaseSegDataset  # noqa: E402

LOAD = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')]


def dataset(root: Path, values: list[int], pipeline: list[dict], **options) -> BaseSegDataset:
    """One image of 40 x 56 with these label values, loaded as a run does."""
    for folder, size in (('images', (40, 56, 3)), ('labels', (40, 56))):
        (root / folder).mkdir()
        Image.fromarray(np.resize(np.array(values, np.uint8), size)).save(root / folder / 'a.png')
    prefix = dict(img_path='images', seg_map_path='labels')
    options = dict(data_root=str(root), data_prefix=prefix, img_suffix='.png', pipeline=pipeline) | options
    made = BaseSegDataset(metainfo=dict(classes=('sky', 'tree', 'car')), **options)
    name_unreadable_files(made)
    return made


@pytest.mark.parametrize('pack', [[], [dict(type='mmseg.PackSegInputs')]])
@pytest.mark.parametrize('reduce', [False, True])
def test_label_outside_the_classes(tmp_path, pack, reduce):
    (tmp_path / 'good').mkdir()
    (tmp_path / 'bad').mkdir()
    good = dataset(tmp_path / 'good', [0, 1, 2, 255] + [3] * reduce, [*LOAD, *pack], reduce_zero_label=reduce)
    assert 'inputs' in good[0] or 'gt_seg_map' in good[0]
    bad = dataset(tmp_path / 'bad', [0, 1, 7, 255], [*LOAD, *pack], reduce_zero_label=reduce)
    with pytest.raises(UserError, match=f"bad/labels/a.png' has class {7 - reduce}, .*={reduce}.* 3 classes"):
        bad[0]


def test_no_labels_and_no_classes(tmp_path):
    made = dataset(tmp_path, [0, 7], [dict(type='LoadImageFromFile')])
    assert 'gt_seg_map' not in made[0]
    made = BaseSegDataset(
        data_root=str(tmp_path), data_prefix=made.data_prefix, img_suffix='.png', pipeline=LOAD, lazy_init=True
    )
    name_unreadable_files(made)
    assert made[0]['gt_seg_map'].max() == 7


def test_the_void_label_is_that_of_the_dataset(tmp_path):
    made = dataset(tmp_path, [0, 7, 255], LOAD, ignore_index=7)
    assert set(np.unique(made[0]['gt_seg_map'])) == {0, 7, 255}


def test_why_unreadable(tmp_path):
    file = tmp_path / 'a.jpg'
    assert why_unreadable(str(file)) == 'there is no such file'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(file)
    assert why_unreadable(str(file)) == ''
    file.write_bytes(file.read_bytes()[:900])
    assert 'truncated' in why_unreadable(str(file))
    assert why_unreadable(str(file), decode=False) == ''
    file.write_bytes(b'')
    assert why_unreadable(str(file))


def test_format_that_only_opencv_reads(tmp_path):
    import cv2

    file = str(tmp_path / 'a.hdr')
    assert cv2.imwrite(file, np.ones((40, 56, 3), np.float32))
    with pytest.raises(OSError):
        Image.open(file)
    assert why_unreadable(file) == ''


def test_data_comes_without_the_engine():
    code = "import sys, densevit.check.data; print([name for name in sys.modules if 'densevit.engine' in name])"
    assert run_forked(code).strip() == '[]'
