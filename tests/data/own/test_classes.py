"""Tables of classes in the forms that label tools write."""

from __future__ import annotations

import json

import pytest

from densevit.data.own.classes import Class, read_classes
from densevit.errors import UserError

ROAD, TREE = Class('road', None, (128, 64, 128)), Class('old tree', None, (0, 128, 0))
FORMS = {
    'road\nold tree\n': [Class('road'), Class('old tree')],
    '\ufeff# names\nroad\r\n\nold tree': [Class('road'), Class('old tree')],
    '128 64 128 road\n0 128 0\told tree': [ROAD, TREE],
    'road 128 64 128\nold tree, 0, 128, 0': [ROAD, TREE],
    '# label:color_rgb:parts:actions\nroad:128,64,128::\nold tree:0,128,0:leaf:': [ROAD, TREE],
    'name,r,g,b\nroad,128,64,128\nold tree,0,128,0': [ROAD, TREE],
    'Name;Color\nroad;#804080\nold tree;(0, 128, 0)': [ROAD, TREE],
    '7 road\n11: old tree': [Class('road', 7), Class('old tree', 11)],
    'id,name,color\n7,road,#804080\n11,old tree,#008000': [
        Class('road', 7, ROAD.color),
        Class('old tree', 11, TREE.color),
    ],
    '0 road 128 64 128\n1 old tree 0 128 0': [Class('road', 0, ROAD.color), Class('old tree', 1, TREE.color)],
}
JSON = [
    (['road', 'old tree'], [Class('road'), Class('old tree')]),
    ({'classes': [{'index': 0, 'name': 'road', 'color': [128, 64, 128]}]}, [Class('road', 0, ROAD.color)]),
    ({'categories': [{'id': 7, 'name': 'road', 'supercategory': 'x'}]}, [Class('road', 7)]),
    ({'road': [128, 64, 128], 'old tree': '#008000'}, [ROAD, TREE]),
    ({'7': 'road'}, [Class('road', 7)]),
]


@pytest.mark.parametrize('text', FORMS, ids=ascii)
def test_text(tmp_path, text):
    file = tmp_path / 'classes.txt'
    file.write_text(text, encoding='utf-8')
    assert read_classes([str(file)]) == FORMS[text]


@pytest.mark.parametrize(('content', 'expected'), JSON)
def test_json(tmp_path, content, expected):
    file = tmp_path / 'classes.json'
    file.write_text(json.dumps(content))
    assert read_classes([str(file)]) == expected


def test_names_on_the_command_line():
    assert read_classes(['road', 'tree']) == [Class('road'), Class('tree')]
    assert read_classes(['road']) == [Class('road')]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'has no class in it'),
        ('road\nroad', "the name 'road' stands there twice"),
        ('road 1 2 3\ntree 1 2 3', r'the color \(1, 2, 3\) stands there twice'),
        ('7 road\n7 tree', 'the value 7 stands there twice'),
        ('road 1 2 300', "the line 'road 1 2 300' is none that is known"),
        ('name,r,g,b\nroad,1', "the line 'road,1' is none that is known"),
        ('name;color\nroad;blue', "the line 'road;blue' is none that is known"),
    ],
)
def test_refused(tmp_path, text, message):
    file = tmp_path / 'classes.txt'
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_classes([str(file)])


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match='cannot be read'):
        read_classes([str(tmp_path / 'absent.csv')])
    (tmp_path / 'broken.json').write_text('{')
    with pytest.raises(UserError, match='is no list of names'):
        read_classes([str(tmp_path / 'broken.json')])
