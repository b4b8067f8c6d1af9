"""COCO files as they come: paths of other machines, ids with gaps, no sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from densevit.data.own.coco import name_of, read_coco, split_coco
from densevit.errors import UserError

SQUARE = [[1.0, 1, 9, 1, 9, 9, 1, 9]]


def content(**changes) -> dict:
    return (
        dict(
            images=[
                dict(id=5, file_name='C:\\data\\a.jpg'),
                dict(id=6, file_name='/home/me/photos/sub/b.jpg', width=20, height=10),
                dict(id=7, file_name='c.jpg', width=20, height=10),
            ],
            annotations=[
                dict(id=1, image_id=5, category_id=9, bbox=[1, 1, 8, 8], segmentation=SQUARE),
                dict(id=2, image_id=6, category_id=3, bbox=[1, 1, 8, 8], segmentation=SQUARE),
                dict(id=3, image_id=6, category_id=3, bbox=[1, 1, 8, 8], segmentation=[]),
            ],
            categories=[dict(id=9, name='cat '), dict(id=3, name='dog'), dict(id=4, name='cow')],
        )
        | changes
    )


@pytest.fixture
def read(tmp_path):
    (tmp_path / 'photos/sub').mkdir(parents=True)
    for name in ('a.jpg', 'sub/b.jpg', 'c.jpg', 'sub/c.jpg'):
        Image.new('RGB', (20, 10)).save(tmp_path / 'photos' / name)
    file = tmp_path / 'coco.json'

    def call(given):
        file.write_text(given if isinstance(given, str) else json.dumps(given))
        return read_coco(file, Path(tmp_path / 'photos'))

    return call


def test_reads(read):
    found = read(content())
    assert [image['file_name'] for image in found.content['images']] == ['a.jpg', 'sub/b.jpg', 'c.jpg']
    assert found.sizes == [(10, 20)] * 3
    assert [each.name for each in found.classes] == ['cat', 'dog', 'cow']
    assert found.counts == {'cat': 1, 'dog': 1, 'cow': 0}
    assert '1 annotations of coco.json have no outline' in found.notes[0]
    assert all({'id', 'area', 'iscrowd'} <= each.keys() for each in found.content['annotations'])
    assert 'images have no object' in found.notes[-1]


def test_splits(read):
    train, val = split_coco(read(content()).content, {'sub__b'})
    assert [name_of(image) for image in val['images']] == ['sub__b']
    assert [each['id'] for each in val['annotations']] == [2]
    assert [each['id'] for each in train['annotations']] == [1]
    assert train['categories'] == val['categories']


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('{', 'cannot be read as JSON'),
        ('[]', "has no list 'images'"),
        (content(annotations=[]), "the list 'annotations' is empty"),
        (content(categories=[dict(id=1, name='x'), dict(id=2, name='x')]), "two categories have one name or id: 'x'"),
        (content(images=[dict(id=5, file_name='z.jpg')]), "1 of 1 images .* such as 'z.jpg'"),
        (content(images=[dict(id=5, file_name='../coco.json')]), 'are not below'),
        (content(images=[dict(id=5, file_name='a.jpg')] * 2), 'two images have one id'),
        (content(categories=[dict(id=1, name='x')]), 'annotation 1 is of image 5 and category 9'),
        (
            content(annotations=[dict(id=1, image_id=5, category_id=9, bbox=[1, 1, 2, 2])]),
            'no annotation has an outline',
        ),
    ],
)
def test_refused(read, given, message):
    with pytest.raises(UserError, match=message):
        read(given)
