"""Under which conditions a config's model is tested, in words that two reports can be compared by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from mmengine.config import Config

from ..check.data.steps import leaf_dataset, steps

__all__ = ['conditions_of_test', 'dataset_name', 'step_text']

# Options that change no result of a test, and where the data lies.
_NO_MATTER = re.compile(
    r'(train|val|optim|param_scheduler|auto_scale_lr|default_hooks|log_|visualizer|vis_backends|work_dir|env_cfg'
    r'|data_root$)|.*(num_workers|persistent_workers|pin_memory|prefetch_factor)$'
)


def conditions_of_test(cfg: Config, images: int, options: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """What the results of a test depend on besides weights: a row each with ``name``, ``value`` and ``unusual``.

    Args:
        cfg: the config as it ran, with test-time augmentation where that was asked for.
        images: how many were tested.
        options: ``--cfg-options``.

    ``unusual`` is what makes the results others than those that a model is usually compared by: a part of the data,
    averages over several views, and options that changed the test.
    """
    dataset = leaf_dataset(cfg.test_dataloader.dataset) or {}
    part = dataset.get('indices')
    done = [step for _, step in steps(dataset, '')]
    views = _views(done)
    changed = [f'{key}={value}' for key, value in (options or {}).items() if not _NO_MATTER.match(key)]
    rows = [
        ('data', dataset_name(cfg), False),
        ('images', f'{images}, a part of the data set' if part is not None else str(images), part is not None),
        ('size', ', '.join(step_text(step) for step in done if 'Resize' in step['type']) or 'as they are', False),
        ('passes', _passes(cfg.model.get('module', cfg.model)), False),
        ('views', 'one' if views is None else f'{views}, averaged (test-time augmentation)', views is not None),
        ('options', ' '.join(changed) or 'none', bool(changed)),
    ]
    return [{'name': name, 'value': value, 'unusual': unusual} for name, value, unusual in rows]


def dataset_name(cfg: Config) -> str:
    """What people call the data that a config tests on.

    A class with classes of its own is the data set's: ADE20KDataset. Any other reads a folder: ``camvid`` where the
    config's name ends in that and the folder's path has it, else the folder's own name.
    """
    dataset = leaf_dataset(cfg.test_dataloader.dataset) or {}
    kind = str(dataset.get('type', '')).rpartition('.')[2]
    root = PurePath(str(dataset.get('data_root') or ''))
    if not root.name or not (kind in ('BaseSegDataset', 'BaseDetDataset') or 'classes' in dataset.get('metainfo', {})):
        name = kind.removesuffix('Dataset')
        return {'Coco': 'COCO'}.get(name, name) or 'unknown data'
    called = PurePath(cfg.filename or '').stem.rpartition('_')[2]
    return called if called in root.parts else root.name


def step_text(step: Mapping[str, Any]) -> str:
    """A step of a pipeline: ``Resize(scale=(480, 360), keep_ratio=True)``."""
    arguments = ', '.join(f'{key}={value}' for key, value in step.items() if key not in ('type', 'transforms'))
    return f'{step["type"]}({arguments})'


def _views(steps: list[Mapping[str, Any]]) -> int | None:
    """How many of each image are averaged; None without test-time augmentation."""
    for step in steps:
        if step['type'].rpartition('.')[2] == 'TestTimeAug':
            views = 1
            for choices in step['transforms']:
                views *= len(choices)
            return views
    return None


def _passes(model: Mapping[str, Any]) -> str:
    test_cfg = model.get('test_cfg') or {}
    if test_cfg.get('mode') != 'slide':
        return 'whole images'
    height, width, down, across = (*test_cfg['crop_size'], *test_cfg['stride'])
    return f'windows of {height} x {width} pixels, every {down} x {across}'
