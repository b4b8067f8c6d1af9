"""Numbers of classes, and the void label, as the model's heads have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine import registry as registries
from mmengine.config import Config
from mmengine.dataset import BaseDataset

from ...signatures import parameters
from .report import DatasetReport
from .text import first

__all__ = ['VOID', 'check_heads', 'heads_of', 'num_classes_of', 'void_labels']

VOID = 255  # mmseg's void label, unless the head says otherwise


def heads_of(cfg: Config) -> dict[str, dict]:
    """The heads that classify into the dataset's classes: not an RPN, HTC's stuff head, STDC's edge head."""
    return dict(_heads(cfg.get('model'), 'model'))


def _heads(value: Any, path: str) -> Iterator[tuple[str, dict]]:
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _heads(item, f'{path}[{index}]')
    elif isinstance(value, dict):
        name = path.rpartition('.')[2].partition('[')[0]
        if name == 'rpn_head' or 'semantic_head' in name or value.get('type') == 'STDCHead':
            return
        if name.endswith('_head') and name != 'roi_head':
            yield path, value
        else:
            for key, item in value.items():
                yield from _heads(item, f'{path}.{key}')


def num_classes_of(cfg: Config, head: dict) -> int | None:
    """What the config says, else the default of the class: 80 for mmdet's heads."""
    if 'num_classes' in head or not isinstance(head.get('type'), str):
        return head.get('num_classes')
    with registries.MODELS.switch_scope_and_registry(cfg.get('default_scope') or 'mmengine') as registry:
        factory = registry.get(head['type'])
    known = parameters(factory)[0] if factory else {}
    default = known['num_classes'].default if 'num_classes' in known else None
    return default if isinstance(default, int) else None


def void_labels(cfg: Config) -> set[int]:
    """The labels that the heads' losses ignore."""
    return {head.get('ignore_index', VOID) for head in heads_of(cfg).values()} or {VOID}


def check_heads(report: DatasetReport, cfg: Config, dataset: BaseDataset) -> None:
    """Note heads with another number of classes than the dataset."""
    classes = dataset.metainfo.get('classes')
    if not classes or getattr(dataset, 'return_classes', False):  # open vocabulary: the names are inputs
        return
    counts = {where: num_classes_of(cfg, head) for where, head in heads_of(cfg).items()}
    wrong = {where: count for where, count in counts.items() if count is not None and count != len(classes)}
    if wrong:
        found = ', '.join(f'{where}.num_classes={count}' for where, count in wrong.items())
        report.add(
            'error',
            'class-count',
            f'it has {len(classes)} classes ({first(classes, 5)}) but the model {found}; '
            f'set num_classes={len(classes)} there, or metainfo=dict(classes=...) of the dataset.',
        )
