"""Variables that a config sets anew in vain are named, and those that something reads are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from densevit.check.variables import find_lost_variables

BASE = """
data_root = 'data/a'
scale = (64, 48)
pipeline = [dict(type='Resize', scale=scale)]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=pipeline))
val_dataloader = train_dataloader
unused = 1
"""
FIELDS = {'train_dataloader', 'val_dataloader'}


def lost(folder: Path, text: str, train: dict | None = None) -> list[tuple[str, str]]:
    """Level and place of what is found in a config of this text, whose train_dataloader comes to ``train``."""
    (folder / 'base.py').write_text(BASE)
    (folder / 'middle.py').write_text("_base_ = ['./base.py']\n")
    file = folder / 'child.py'
    file.write_text(f"_base_ = './middle.py'\n{text}\n")
    cfg: dict = {}
    exec(text.replace('{{_base_.scale}}', '(1, 1)'), cfg)
    cfg['train_dataloader'] = train or {'dataset': {'data_root': 'data/a'}}
    return [(found.level, found.place) for found in find_lost_variables(cfg, str(file), FIELDS)]


@pytest.mark.parametrize(
    ('text', 'level', 'name'),
    [
        ("data_root = '/data/mine'", 'error', 'data_root'),
        ('scale = (32, 24)', 'warning', 'scale'),
        ("pipeline = [dict(type='Resize', scale=(9, 9))]", 'warning', 'pipeline'),
    ],
)
def test_a_variable_of_the_base_with_another_value_that_nothing_reads(tmp_path, text, level, name):
    assert lost(tmp_path, text) == [(level, name)]


@pytest.mark.parametrize(
    'text',
    [
        "data_root = 'data/a'",  # the base's value
        'unused = 2',  # the base does not use it either
        'mine = 3',
        "val_dataloader = dict(dataset=dict(data_root='b'))",  # a field
        'scale = (32, 24)\nmodel = dict(scale=scale)',
        '_scale = 1',
    ],
)
def test_what_is_read_or_is_no_variable_of_the_base_is_let_be(tmp_path, text):
    assert lost(tmp_path, text) == []


@pytest.mark.parametrize('written', ['/data/mine', '/data/mine/images'])
def test_a_value_that_is_written_again_where_it_is_read_is_let_be(tmp_path, written):
    assert lost(tmp_path, "data_root = '/data/mine'", {'dataset': {'data_root': written}}) == []


def test_a_file_that_is_no_python_or_not_there_says_nothing(tmp_path):
    (tmp_path / 'broken.py').write_text('a = (')
    for file in (None, str(tmp_path / 'broken.py'), str(tmp_path / 'absent.py')):
        assert list(find_lost_variables({}, file, FIELDS)) == []
