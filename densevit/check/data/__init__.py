"""Look at the data of a config before the first iteration: layout, annotations, classes, labels, files.

A quick check takes seconds (COCO's train JSON about 20): existence and size are asked of every file, headers are read
of at most 2000 images, pixels and label values of at most 64 files of each dataset. A thorough one reads every file,
in several processes. What either finds would otherwise come hours later, or never: as a device-side assert, an empty
dataset, or an IoU of 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from mmengine import registry as registries
from mmengine.config import Config
from mmengine.dataset import BaseDataset

from ...errors import UserError
from .coco import check_coco
from .heads import check_heads
from .layout import check_layout, check_truth
from .leakage import Checked, check_between
from .parallel import Crew
from .report import DatasetReport
from .segmentation import check_segmentation
from .steps import label_loaders, leaves
from .trial import try_pipeline

__all__ = ['DatasetReport', 'check_datasets', 'require_sound_data']


def check_datasets(
    cfg: Config,
    splits: Iterable[str] = ('train', 'val', 'test'),
    *,
    thorough: bool = False,
    workers: int = 0,
    progress: bool = False,
    pipelines: bool = False,
) -> list[DatasetReport]:
    """Check what the dataloaders of ``cfg`` will read.

    Args:
        cfg: a config that :func:`densevit.config.reading.load_config` accepted.
        splits: which of the dataloaders. A dataset that two of them share is checked once.
        thorough: whether to read every file.
        workers: processes for that; up to 1: this one alone.
        progress: whether to show bars on stderr.
        pipelines: whether to send a few samples of each, where it is sound, through its pipeline.

    Returns:
        one report for each dataset, with all that was found.

    Raises:
        UserError: a worker died.
    """
    crew = Crew(workers if thorough else 0, progress)
    done: dict[str, Checked] = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not isinstance(loader, dict) or not isinstance(loader.get('dataset'), dict):
            continue
        found = list(leaves(loader['dataset'], f'{split}_dataloader.dataset'))
        for path, leaf in found:
            # The pipeline matters here for its loaders alone: val and test may differ in nothing else.
            shifts = {step['reduce_zero_label'] for _, step in label_loaders(leaf, path)}
            key = repr((sorted((name, value) for name, value in leaf.items() if name != 'pipeline'), shifts))
            if key in done:
                done[key].splits.add(split)
            else:
                done[key] = _check_dataset(cfg, leaf, path, split, crew, thorough, pipelines)
            if len(found) == 1 and split != 'train':  # the truth of several is a file that they do not name
                check_truth(done[key].report, cfg, f'{split}_evaluator', path, leaf)
    check_between(list(done.values()))
    return [each.report for each in done.values()]


def require_sound_data(cfg: Config, splits: Iterable[str]) -> list[DatasetReport]:
    """Check quickly what the dataloaders of ``cfg`` will read.

    Raises:
        UserError: data that cannot be trained on or scored; the message names the files or values and the cures.
    """
    reports = check_datasets(cfg, splits)
    errors = [f'{each.place}: {each.message}' for report in reports for each in report.errors]
    if len(errors) > 1:
        raise UserError('\n'.join([f'the data has {len(errors)} faults:', *(f'  {error}' for error in errors)]))
    if errors:
        raise UserError(errors[0])
    return reports


def _check_dataset(
    cfg: Config, leaf: dict, path: str, split: str, crew: Crew, thorough: bool, pipelines: bool
) -> Checked:
    root = leaf.get('data_root') or '.'
    remote = (leaf.get('backend_args') or {}).get('backend', 'local') != 'local'
    report = DatasetReport(path, str(root) if remote else os.path.abspath(root), sampled=not thorough)
    if remote:
        report.add('note', 'not-checked', 'not on this file system: not checked.')
        return Checked(report, {split}, {})
    classes = (leaf.get('metainfo') or {}).get('classes')
    if isinstance(classes, str) and not os.path.isfile(classes):
        report.add(
            'error',
            'classes-not-a-list',
            f'classes={classes!r} is a string, not a list of names; did you mean classes=({classes!r},)?',
            place=f'{path}.metainfo',
        )
        return Checked(report, {split}, {})
    dataset = _build(cfg, leaf, report) if check_layout(report, cfg, leaf) else None
    if dataset is None:
        return Checked(report, {split}, {})
    if isinstance(dataset, BaseDataset):
        facts = _look(report, dataset, leaf, cfg, crew, thorough)
        if pipelines:
            try_pipeline(report, leaf, cfg, dataset.data_list)
        return Checked(report, {split}, facts)
    report.images = len(dataset)
    report.add('note', 'not-checked', f'no checks for a {type(dataset).__name__}.')
    return Checked(report, {split}, {})


def _look(report: DatasetReport, dataset: BaseDataset, leaf: dict, cfg: Config, crew: Crew, thorough: bool) -> dict:
    if hasattr(dataset, 'seg_map_suffix') and hasattr(dataset, 'reduce_zero_label'):
        check_heads(report, cfg, dataset)
        return check_segmentation(report, dataset, leaf, cfg, crew, thorough)
    # LVIS, COCO panoptic and others derive from mmdet's CocoDataset but read another format.
    if dataset.load_data_list.__func__.__qualname__ == 'CocoDataset.load_data_list':
        check_heads(report, cfg, dataset)
        return check_coco(report, dataset, leaf, cfg, crew, thorough)
    # Serializing an empty list fails: "need at least one array to concatenate".
    dataset.serialize_data = False
    try:
        dataset.full_init()
    except Exception as error:
        report.add('error', 'dataset-broken', f'a {type(dataset).__name__} cannot be loaded: {error}.')
        return {}
    report.images = len(dataset)
    if not report.images:
        report.add('error', 'no-image-left', f'no image left of {dataset.ann_file or report.root!r} after filtering.')
    report.add('note', 'not-checked', f'no more checks for a {type(dataset).__name__}.')
    return {}


def _build(cfg: Config, leaf: dict, report: DatasetReport) -> Any:
    """The dataset, with its classes and joined paths but without reading its files; None where that fails."""
    scope = cfg.get('default_scope') or 'mmengine'
    try:
        with registries.DATASETS.switch_scope_and_registry(scope) as registry:
            return registry.build({**leaf, 'pipeline': [], 'lazy_init': True})
    except Exception as error:
        report.add('error', 'dataset-broken', f'{leaf.get("type")} cannot be built: {error}')
        return None
