"""Masks in files become COCO annotations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from densevit.data.prepare.nuclei import _SPLITS, route, write_annotations
from densevit.errors import UserError

from .archive_files import labels, picture


def test_which_images(shared_data):
    for split, names in _SPLITS.items():
        there = sorted(path.stem[:8] for path in (shared_data / 'nuclei' / split).iterdir())
        assert there == names.split()


def test_routes():
    name = '00071198' * 8
    assert route(f'x/{name}/images/{name}.png')[0] == f'train/{name[:16]}.png'
    assert route(f'{name}/masks/ab-1.png') == (f'masks/{name[:16]}/ab-1.png', None)
    assert route(f'{"0" * 64}/masks/ab.png') is None and route('README.rst') is None


def prepare(folder, mask):
    for split, size in (('train', (41, 23)), ('val', (13, 17))):
        (folder / split).mkdir()
        (folder / split / 'one.png').write_bytes(picture(size, 'PNG'))
        if split == 'train':
            (folder / 'masks' / 'one').mkdir(parents=True)
            (folder / 'masks' / 'one' / 'a.png').write_bytes(labels(mask))
    (folder / 'val' / 'one.png').rename(folder / 'val' / 'two.png')


def test_annotations(tmp_path, capsys):
    mask = np.zeros((23, 41), np.uint8)
    mask[3:9, 5:12] = 255
    prepare(tmp_path, mask)
    small = np.zeros((17, 13), np.uint8)
    small[0, :10] = 1
    (tmp_path / 'masks' / 'two').mkdir()
    (tmp_path / 'masks' / 'two' / 'small.png').write_bytes(labels(small))
    small[1, :11] = 1
    (tmp_path / 'masks' / 'two' / 'enough.png').write_bytes(labels(small))
    write_annotations(tmp_path)
    coco = COCO(tmp_path / 'annotations' / 'instances_train.json')
    (annotation,) = coco.dataset['annotations']
    np.testing.assert_array_equal(coco.annToMask(annotation), mask > 0)
    assert annotation['bbox'] == [5, 3, 7, 6] and annotation['area'] == 42
    content = json.loads((tmp_path / 'annotations' / 'instances_val.json').read_text())
    assert [each['area'] for each in content['annotations']] == [21]  # fewer pixels are left out
    assert content['images'] == [{'id': 1, 'file_name': 'two.png', 'width': 13, 'height': 17}]
    assert rle.area(content['annotations'][0]['segmentation']) == 21


def test_what_does_not_fit(tmp_path):
    prepare(tmp_path, np.ones((41, 23), np.uint8))
    with pytest.raises(UserError, match=r'a.png has \(41, 23\) pixels .* \(23, 41\)'):
        write_annotations(tmp_path)
    (tmp_path / 'masks' / 'one' / 'a.png').unlink()
    with pytest.raises(UserError, match='no masks for the image one'):
        write_annotations(tmp_path)
