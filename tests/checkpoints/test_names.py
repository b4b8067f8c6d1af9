"""Names are translated one to one, in both directions, and what no pattern fits stays as it is."""

from __future__ import annotations

import pytest
import torch

from densevit.checkpoints.names import NameTable, of_backbone, reads_whole, writes_whole

TABLE = NameTable(
    ('layers.{s}.1.0.table', 'table{s+1}'),
    ('layers.{s}.1.{b+1}.norm.*', 'block{s+1}.{b}.norm1.*'),
    ('stem.{2k}.0.*', 'convs.{k}.*'),
    ('a+b.{s}', 'sum{s}'),
    ('*.end', 'end.*'),
)


@pytest.mark.parametrize(
    ('theirs', 'ours'),
    [
        ('layers.0.1.0.table', 'table1'),
        ('layers.9.1.0.table', 'table10'),
        ('layers.11.1.13.norm.bias', 'block12.12.norm1.bias'),
        ('stem.6.0.weight', 'convs.3.weight'),
        ('a+b.7', 'sum7'),
        ('some.where.end', 'end.some.where'),
    ],
)
def test_both_directions(theirs, ours):
    assert TABLE.ours(theirs) == ours
    assert TABLE.theirs(ours) == theirs


@pytest.mark.parametrize(
    'name',
    [
        'layers.x.1.0.table',
        'layers.0.1.0.table.more',
        'layers.0.1.0.norm.bias',  # a block before the first
        'stem.5.0.weight',  # no twice a number
        'aab.7',  # the plus is a plus
        'layers.0.1.1.norm.',  # nothing is no rest
        '.end',
    ],
)
def test_unknown_names_stay(name):
    assert TABLE.ours(name) == name


def test_a_table_that_begins_with_0_has_no_name_of_theirs():
    assert TABLE.theirs('table0') == 'table0'


def test_tensors_are_not_copied():
    tensors = {'layers.0.1.0.table': torch.ones(2), 'other': torch.zeros(1)}
    renamed = TABLE.to_ours(tensors)
    assert renamed.keys() == {'table1', 'other'}
    assert renamed['table1'] is tensors['layers.0.1.0.table']
    assert TABLE.to_theirs(renamed) == tensors


def test_whole_models():
    @reads_whole
    def read(tensors):
        return {'backbone.' + name.upper(): tensor for name, tensor in tensors.items()}

    @writes_whole
    def write(tensors):
        return {name.removeprefix('backbone.').lower(): tensor for name, tensor in tensors.items()}

    tensor = torch.zeros(1)
    for theirs, ours in (
        ({'a': tensor}, {'backbone.A': tensor}),
        ({'backbone.a': tensor, 'neck.b': tensor}, {'backbone.A': tensor, 'neck.b': tensor}),
    ):
        assert read(theirs) == ours
        assert write(ours) == theirs
    # a classifier is no whole model: its backbone has no prefix in other packages
    assert write({'backbone.A': tensor, 'pool.B': tensor, 'head.C': tensor}) == dict.fromkeys(
        ('a', 'pool.b', 'head.c'), tensor
    )
    assert of_backbone(['backbone.a', 'b', 'neck.backbone.c']) == {'a', 'b', 'neck.backbone.c'}
