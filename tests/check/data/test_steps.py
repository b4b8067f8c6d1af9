"""Nested data sets and steps are found where they are."""

from __future__ import annotations

from densevit.check.data.steps import leaf_dataset, leaves, steps


def test_leaves_of_nested_datasets():
    leaf = dict(type='A', pipeline=[])
    nested = dict(type='R', dataset=dict(type='C', datasets=[leaf, dict(type='B')]))
    assert [path for path, _ in leaves(nested, 'x')] == ['x.dataset.datasets[0]', 'x.dataset.datasets[1]']
    assert leaf_dataset(nested) is leaf
    assert leaf_dataset(None) is None and leaf_dataset(dict(type='C', datasets=[])) is None


def test_steps_inside_of_steps():
    choice = dict(type='RandomChoice', transforms=[[dict(type='Resize')], [dict(type='Flip')]])
    found = [(path, step['type']) for path, step in steps(dict(pipeline=[dict(type='Load'), choice]), 'x')]
    assert found == [
        ('x.pipeline[0]', 'Load'),
        ('x.pipeline[1]', 'RandomChoice'),
        ('x.pipeline[1].transforms[0][0]', 'Resize'),
        ('x.pipeline[1].transforms[1][0]', 'Flip'),
    ]
