"""The datasets of a config, and the steps of their pipelines, nested ones too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ['crop_size', 'kind_of', 'label_loaders', 'leaf_dataset', 'leaves', 'steps']


def leaves(dataset: Any, path: str) -> Iterator[tuple[str, dict]]:
    """The datasets inside ``RepeatDataset``, ``ConcatDataset`` and the like, with their places in the config."""
    inner = dataset.get('datasets', dataset.get('dataset')) if isinstance(dataset, dict) else None
    if isinstance(inner, dict):
        yield from leaves(inner, f'{path}.dataset')
    elif isinstance(inner, (list, tuple)):
        for index, each in enumerate(inner):
            yield from leaves(each, f'{path}.datasets[{index}]')
    elif isinstance(dataset, dict):
        yield path, dataset


def leaf_dataset(dataset: Any) -> dict | None:
    """The first of the :func:`leaves`; None where there is none."""
    return next((leaf for _, leaf in leaves(dataset, '')), None)


def steps(leaf: dict, path: str) -> Iterator[tuple[str, dict]]:
    """Each step of a dataset's pipeline and its place in the config; ``RandomChoice`` and others nest them."""

    def walk(value: Any, place: str) -> Iterator[tuple[str, dict]]:
        if isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                yield from walk(item, f'{place}[{index}]')
        elif isinstance(value, dict):
            if 'type' in value:
                yield place, value
            for key in ('transforms', 'transform'):
                yield from walk(value.get(key), f'{place}.{key}')

    return walk(leaf.get('pipeline'), f'{path}.pipeline')


def kind_of(step: dict) -> str:
    """The class of a step without its scope: ``'mmdet.Resize'`` is a ``'Resize'``."""
    kind = step.get('type')
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')


def label_loaders(leaf: dict, path: str) -> Iterator[tuple[str, dict]]:
    """The loading steps that have a ``reduce_zero_label`` of their own; without one they take the dataset's."""
    return ((place, step) for place, step in steps(leaf, path) if step.get('reduce_zero_label') is not None)


def crop_size(leaf: dict) -> tuple[int, int] | None:
    """Height and width that a pipeline for segmentation cuts out, or None."""
    for _, step in steps(leaf, ''):
        size = step.get('crop_size')
        if kind_of(step) == 'RandomCrop' and step.get('crop_type', 'absolute') == 'absolute' and size is not None:
            size = (size, size) if isinstance(size, int) else size
            if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(side, int) for side in size):
                return tuple(size)
    return None
