"""Whether a dataset's folders and annotation file are where the config expects them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from mmengine.config import Config

from ...data.prepare.datasets import DATASETS
from .report import DatasetReport
from .text import first

__all__ = ['check_layout', 'check_truth']


def check_layout(report: DatasetReport, cfg: Config, leaf: dict) -> bool:
    """Whether everything is there; what is not is noted, with where it is instead or how to get it."""
    root = leaf.get('data_root') or ''
    wanted = [*(leaf.get('data_prefix') or {}).values(), leaf.get('ann_file')]
    wanted = sorted({part.rstrip('/') for part in wanted if isinstance(part, str) and part})
    how = _how(cfg, root, report.path)
    prepare = _prepare(leaf, root, wanted)
    base = Path(os.path.abspath(root or '.'))
    if root and not base.is_dir():
        inside = f' with {", ".join(wanted)} in it' if wanted else ''
        what = 'is not a folder' if base.exists() else 'does not exist'
        near = _nearest(base, wanted)
        report.add(
            'error',
            'data-root-missing',
            f'data root {str(base)!r} {what}; expected a folder{inside}; {near}{how}{prepare}.',
        )
        return False
    missing = [part for part in wanted if not (base / part).exists()]
    if missing:
        kind, there = _what_is_there(base, wanted, missing[0])
        report.add(
            'error',
            kind,
            f'{missing[0]!r} is not in the data root {str(base)!r} (expected: {", ".join(wanted)}); {there}; '
            f'{how}{prepare}.',
        )
    return not missing


def _how(cfg: Config, root: str, path: str) -> str:
    """How a run is told of another data root."""
    option = 'data_root' if _is_below(root, cfg.get('data_root')) else _option(f'{path}.data_root')
    how = f'set --cfg-options {option}=PATH'
    # data_root = '{{$DENSEVIT_DATA:data}}/camvid'
    written = re.findall(r'([\'"])\{\{\s*\$(\w+)\s*:\s*(\S*?)\s*\}\}(.*?)\1', cfg.text or '')
    for _, variable, default, rest in sorted(set(written)):
        now = os.environ.get(variable, default)
        if _is_below(root, now + rest):
            how += f' or the environment variable {variable} (now {now!r})'
    return how


def _is_below(path: str, root: str | None) -> bool:
    """Whether ``path`` is ``root`` or in it: what an override of the config's data_root moves."""
    return bool(root) and f'{path}/'.startswith(root.rstrip('/') + '/')


def _option(path: str) -> str:
    """A place in the config as --cfg-options has it: ``datasets[0]`` is ``datasets.0`` there."""
    return re.sub(r'\[(\d+)\]', r'.\1', path)


def _prepare(leaf: dict, root: str, wanted: Sequence[str]) -> str:
    """The command that makes a known data set."""
    for dataset in DATASETS.values():
        known = str(leaf.get('type')).lower().endswith(f'{dataset.name}dataset')
        known |= root.rstrip('/').endswith(dataset.folder)
        if known and wanted and set(wanted) <= {part.path for part in dataset.parts}:
            return f'; "python tools/prepare_data.py {dataset.name}" says what is missing and can get it'
    return ''


def _nearest(root: Path, wanted: Sequence[str]) -> str:
    """Where the data root is instead, or how far its path is right."""
    parent = root.parent
    while not parent.is_dir():
        parent = parent.parent
    outer = _folders(parent)
    for place in (parent, *outer, *(inner for each in outer[:50] for inner in _folders(each)[:50])):
        if wanted and all((place / part).exists() for part in wanted):
            return f'such a folder is {str(place)!r}; '
    asked = root.relative_to(parent).parts[0]
    if near := get_close_matches(asked, [folder.name for folder in _folders(parent)], n=1):
        return f'did you mean {str(parent / near[0])!r}? '
    return '' if parent == root.parent else f'{str(parent)!r} exists, {asked!r} in it does not; '


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(each for each in place.iterdir() if each.is_dir() and not each.name.startswith('.'))[:1000]
    except OSError:
        return []


def _what_is_there(root: Path, wanted: Sequence[str], missing: str) -> tuple[str, str]:
    """The kind of the fault, and where the expected folders are instead or what the data root is."""
    for place in (root, root / 'ADE20K_2021_17_01'):
        if (place / 'index_ade20k.pkl').exists() or (place / 'images' / 'ADE').is_dir():
            return 'wrong-archive', (
                'this is the full ADE20K download, where the benchmark is ADEChallengeData2016 '
                '(http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip)'
            )
    for place in (*root.glob('*/'), *root.glob('*/*/'), *list(root.parents)[:2]):
        if all((place / part).exists() for part in wanted):
            return 'data-folder-missing', f'they are in {str(place)!r}: give this one'
    kind = 'annotation-file-missing' if Path(missing).suffix in ('.json', '.txt') else 'data-folder-missing'
    parent = root / missing
    while not parent.is_dir():
        missing, parent = parent.name, parent.parent
    names = sorted(os.listdir(parent))
    near = get_close_matches(missing.lower(), [name.lower() for name in names], n=1)
    guess = next((name for name in names if near and name.lower() == near[0]), '')
    where = 'there is' if parent == root else f'in {str(parent)!r} there is'
    meant = f' (did you mean {guess!r}?)' if guess else ''
    return kind, f'{where}: {first(names, 8) or "nothing"}{meant}'


def check_truth(report: DatasetReport, cfg: Config, key: str, path: str, leaf: dict) -> None:
    """A COCO evaluator must score against the file whose images its dataset reads."""
    given = cfg.get(key)
    if not isinstance(leaf.get('ann_file'), str):
        return
    file = os.path.join(leaf.get('data_root') or '', leaf['ann_file'])
    metrics = enumerate(given) if isinstance(given, (list, tuple)) else [(None, given)]
    for index, metric in metrics:
        if not isinstance(metric, dict) or str(metric.get('type')).rpartition('.')[2] != 'CocoMetric':
            continue
        scored = metric.get('ann_file')
        if scored and os.path.realpath(scored) != os.path.realpath(file):
            option = f'{key}.ann_file' if index is None else f'{key}.{index}.ann_file'
            report.add(
                'error',
                'evaluator-file',
                f'{scored!r} is not the file of {path}, {file!r}, whose images it scores; set {option}={file}.',
                place=option,
            )
