"""Look at the data before the first iteration: layout, annotations, class counts, label values, files.

Existence and size are asked of every file; headers are read from at most 2000, pixels and label values from
at most 64 evenly spread files of each dataset, so that it takes seconds (COCO's train JSON about 15). Every
finding would otherwise come hours later, or never: as a device-side assert, an empty dataset, or an IoU of 0.
"""

from __future__ import annotations

import gc
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import registry as registries
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from PIL import Image

from ..errors import UserError
from ..signatures import parameters
from .loading import why_unreadable

__all__ = ['DataReport', 'DatasetReport', 'check_datasets']

_HEADERS = 2000  # files of a dataset whose header is read
_PIXELS = 64  # files of a dataset whose pixels are read
_IGNORE = 255  # mmseg's void label, unless the head says otherwise


@dataclass
class DatasetReport:
    """What one dataset holds."""

    path: str  # the place in the config, 'train_dataloader.dataset'
    root: str
    images: int  # after filtering
    instances: int | None = None  # annotated, without crowds; None for segmentation
    shares: dict[str, float] = field(default_factory=dict)  # of each class: of instances or of sampled pixels
    ignored: float = 0.0  # fraction of the sampled pixels with the void label
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        count = f'{self.images} images' + ('' if self.instances is None else f', {self.instances} instances')
        text = [f'{self.path}: {count} in {self.root}']
        seen = sorted(((share, name) for name, share in self.shares.items() if share), reverse=True)
        unseen = [name for name, share in self.shares.items() if not share]
        if seen:
            void = f', void {self.ignored:.1%}' if self.instances is None else ''
            text.append(f'  {_first([f"{name} {share:.1%}" for share, name in seen], 8)}{void}')
        if seen and unseen:
            sample = ' in the sample' if self.instances is None else ''
            text.append(f'  not seen{sample}: {_first(unseen, 6)}')
        return '\n'.join(text + [f'  note: {note}' for note in self.notes])


@dataclass
class DataReport:
    """What the datasets of a config hold; ``print`` it."""

    datasets: list[DatasetReport]

    def __str__(self) -> str:
        return '\n'.join(map(str, self.datasets))


def check_datasets(cfg: Config, splits: Iterable[str] = ('train', 'val', 'test')) -> DataReport:
    """Check what the dataloaders of ``cfg`` will read.

    Args:
        cfg: a config that :func:`densevit.engine.config.load_config` accepted.
        splits: which of the dataloaders. A dataset that two of them share is checked once.

    Raises:
        UserError: data that cannot be trained on or scored; the message names the file or value and the cure.
    """
    reports: dict[str, DatasetReport] = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not isinstance(loader, dict) or not isinstance(loader.get('dataset'), dict):
            continue
        leaves = list(_leaves(loader['dataset'], f'{split}_dataloader.dataset'))
        for path, leaf in leaves:
            # The pipeline matters here for its loaders alone: val and test may differ in nothing else.
            shifts = {step['reduce_zero_label'] for _, step in _label_loaders(leaf, path)}
            key = repr((sorted((name, value) for name, value in leaf.items() if name != 'pipeline'), shifts))
            if key not in reports:
                reports[key] = _check_dataset(cfg, leaf, path)
        if len(leaves) == 1 and split != 'train':  # the truth of several is a file that they do not name
            _check_truth(cfg, f'{split}_evaluator', *leaves[0])
    return DataReport(list(reports.values()))


def _check_dataset(cfg: Config, leaf: dict, path: str) -> DatasetReport:
    if (leaf.get('backend_args') or {}).get('backend', 'local') != 'local':
        notes = ['not on this file system: not checked']
        return DatasetReport(path, str(leaf.get('data_root')), 0, notes=notes)
    classes = (leaf.get('metainfo') or {}).get('classes')
    if isinstance(classes, str) and not os.path.isfile(classes):
        raise UserError(
            f'{path}.metainfo: classes={classes!r} is a string, not a list of names; '
            f'did you mean classes=({classes!r},)?'
        )
    _check_layout(cfg, leaf, path)
    dataset = _build(cfg, leaf, path)
    root = os.path.abspath(leaf.get('data_root') or '.')
    if not isinstance(dataset, BaseDataset):
        return DatasetReport(path, root, len(dataset), notes=[f'no checks for a {type(dataset).__name__}'])
    if hasattr(dataset, 'seg_map_suffix') and hasattr(dataset, 'reduce_zero_label'):
        _check_heads(cfg, path, dataset)
        _check_label_loaders(leaf, path, dataset)
        return _check_segmentation(cfg, dataset, path, root, leaf)
    # LVIS, COCO panoptic and others derive from mmdet's CocoDataset but read another format.
    if dataset.load_data_list.__func__.__qualname__ == 'CocoDataset.load_data_list':
        _check_heads(cfg, path, dataset)
        return _check_coco(dataset, path, root, leaf)
    # Serializing an empty list fails: "need at least one array to concatenate".
    dataset.serialize_data = False
    dataset.full_init()
    if len(dataset) == 0:
        raise UserError(f'{path}: no image left of {dataset.ann_file or root!r} after filtering.')
    return DatasetReport(path, root, len(dataset), notes=[f'no more checks for a {type(dataset).__name__}'])


def _leaves(dataset: dict, path: str) -> Iterator[tuple[str, dict]]:
    """The datasets inside ``RepeatDataset``, ``ConcatDataset`` and the like."""
    inner = dataset.get('datasets', dataset.get('dataset'))
    if isinstance(inner, dict):
        yield from _leaves(inner, f'{path}.dataset')
    elif isinstance(inner, (list, tuple)):
        for index, each in enumerate(inner):
            yield from _leaves(each, f'{path}.datasets[{index}]')
    else:
        yield path, dataset


def _build(cfg: Config, leaf: dict, path: str) -> Any:
    """The dataset, with its classes and joined paths but without reading its files."""
    scope = cfg.get('default_scope') or 'mmengine'
    try:
        with registries.DATASETS.switch_scope_and_registry(scope) as registry:
            return registry.build({**leaf, 'pipeline': [], 'lazy_init': True})
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{path}: {leaf.get("type")} cannot be built: {error}') from error


# -------------------------------------------------------------------------------------------------- layout
def _check_layout(cfg: Config, leaf: dict, path: str) -> None:
    root = leaf.get('data_root') or ''
    wanted = [*(leaf.get('data_prefix') or {}).values(), leaf.get('ann_file')]
    wanted = sorted({part.rstrip('/') for part in wanted if isinstance(part, str) and part})
    option = 'data_root' if _is_below(root, cfg.get('data_root')) else _option(f'{path}.data_root')
    how = f'set --cfg-options {option}=PATH'
    # data_root = '{{$DENSEVIT_DATA:data}}/camvid'
    written = re.findall(r'([\'"])\{\{\s*\$(\w+)\s*:\s*(\S*?)\s*\}\}(.*?)\1', cfg.text or '')
    for _, variable, default, rest in sorted(set(written)):
        now = os.environ.get(variable, default)
        if _is_below(root, now + rest):
            how += f' or the environment variable {variable} (now {now!r})'
    if root and not os.path.isdir(root):
        inside = f' with {", ".join(wanted)} in it' if wanted else ''
        missing = os.path.abspath(root)
        raise UserError(f'{path}: data root {missing!r} does not exist; expected a folder{inside}; {how}.')
    for part in wanted:
        if not os.path.exists(os.path.join(root, part)):
            base = os.path.abspath(root or '.')
            raise UserError(
                f'{path}: {part!r} is not in the data root {base!r} (expected: {", ".join(wanted)}); '
                f'{_what_is_there(Path(base), wanted)}; {how}.'
            )


def _is_below(path: str, root: str | None) -> bool:
    """Whether ``path`` is ``root`` or in it: what an override of the config's data_root moves."""
    return bool(root) and f'{path}/'.startswith(root.rstrip('/') + '/')


def _option(path: str) -> str:
    """A place in the config as --cfg-options has it: ``datasets[0]`` is ``datasets.0`` there."""
    return re.sub(r'\[(\d+)\]', r'.\1', path)


def _what_is_there(root: Path, wanted: Sequence[str]) -> str:
    """Where the expected folders are instead, or what the data root is."""
    for place in (root, root / 'ADE20K_2021_17_01'):
        if (place / 'index_ade20k.pkl').exists() or (place / 'images' / 'ADE').is_dir():
            return (
                'this is the full ADE20K download, where the benchmark is ADEChallengeData2016 '
                '(http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip)'
            )
    for place in (*root.glob('*/'), *root.glob('*/*/'), *list(root.parents)[:2]):
        if all((place / part).exists() for part in wanted):
            return f'they are in {str(place)!r}: give this one'
    return f'there is: {_first(sorted(os.listdir(root)), 8) or "nothing"}'


# --------------------------------------------------------------------------------------------------- heads
def _heads(value: Any, path: str) -> Iterator[tuple[str, dict]]:
    """The heads that classify into the dataset's classes: not an RPN, HTC's stuff head, STDC's edge head."""
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


def _num_classes(cfg: Config, head: dict) -> int | None:
    """What the config says, else the default of the class: 80 for mmdet's heads."""
    if 'num_classes' in head or not isinstance(head.get('type'), str):
        return head.get('num_classes')
    with registries.MODELS.switch_scope_and_registry(cfg.get('default_scope') or 'mmengine') as registry:
        factory = registry.get(head['type'])
    known = parameters(factory)[0] if factory else {}
    default = known['num_classes'].default if 'num_classes' in known else None
    return default if isinstance(default, int) else None


def _check_heads(cfg: Config, path: str, dataset: BaseDataset) -> None:
    classes = dataset.metainfo.get('classes')
    if not classes or getattr(dataset, 'return_classes', False):  # open vocabulary: the names are inputs
        return
    counts = {where: _num_classes(cfg, head) for where, head in _heads(cfg.get('model'), 'model')}
    wrong = {where: count for where, count in counts.items() if count is not None and count != len(classes)}
    if wrong:
        found = ', '.join(f'{where}.num_classes={count}' for where, count in wrong.items())
        raise UserError(
            f'{path} has {len(classes)} classes ({_first(classes, 5)}) but the model {found}; '
            f'set num_classes={len(classes)} there, or metainfo=dict(classes=...) of the dataset.'
        )


# -------------------------------------------------------------------------------------------- segmentation
def _label_loaders(leaf: dict, path: str) -> Iterator[tuple[str, dict]]:
    """The loading steps that have a ``reduce_zero_label`` of their own; without one they take the dataset's."""

    def steps(value: Any, place: str) -> Iterator[tuple[str, dict]]:  # RandomChoice and others nest them
        if isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                yield from steps(item, f'{place}[{index}]')
        elif isinstance(value, dict):
            if value.get('reduce_zero_label') is not None:
                yield place, value
            for key in ('transforms', 'transform'):
                yield from steps(value.get(key), f'{place}.{key}')

    return steps(leaf.get('pipeline'), f'{path}.pipeline')


def _check_label_loaders(leaf: dict, path: str, dataset: Any) -> None:
    for place, step in _label_loaders(leaf, path):
        if step['reduce_zero_label'] != dataset.reduce_zero_label:
            raise UserError(
                f'{place}.reduce_zero_label={step["reduce_zero_label"]} but {path}.reduce_zero_label='
                f'{dataset.reduce_zero_label}; give both the same: True where label 0 is void and 1 the first class, '
                'False where 0 is the first class.'
            )


def _check_segmentation(cfg: Config, dataset: Any, path: str, root: str, leaf: dict) -> DatasetReport:
    items = dataset.load_data_list()
    folder = dataset.data_prefix.get('img_path') or root
    if not items:
        raise UserError(
            f'{path}: no image left: nothing in {os.path.abspath(folder)!r} ends with '
            f'img_suffix={dataset.img_suffix!r}; there is: {_suffixes(folder)}.'
        )
    images = [item['img_path'] for item in items]
    labels = [item['seg_map_path'] for item in items if item.get('seg_map_path')]
    missing = [label for label in labels if not os.path.isfile(label)]
    if missing:
        label_folder = dataset.data_prefix.get('seg_map_path') or root
        raise UserError(
            f'{path}: {len(missing)} of {len(images)} images have no label file, expected were '
            f'{_first([os.path.abspath(name) for name in missing], 3)} '
            f'(seg_map_suffix={dataset.seg_map_suffix!r}; in the folder there is: {_suffixes(label_folder)}).'
        )
    _check_sizes(path, 'label', labels)
    _check_files(path, images, leaf)
    report = DatasetReport(path, root, len(images))
    if labels:
        _check_labels(cfg, dataset, path, list(zip(images, labels, strict=True)), report)
    return report


def _check_labels(
    cfg: Config, dataset: Any, path: str, pairs: Sequence[tuple[str, str]], report: DatasetReport
) -> None:
    heads = dict(_heads(cfg.get('model'), 'model'))
    ignore = {head.get('ignore_index', _IGNORE) for head in heads.values()} or {_IGNORE}
    counts = [count for head in heads.values() if (count := _num_classes(cfg, head))]
    classes = list(dataset.metainfo.get('classes') or map(str, range(max(counts, default=0))))
    if not classes:
        report.notes.append('neither dataset nor model says how many classes there are: labels not checked')
        return
    total: Counter[int] = Counter()
    raw_total: Counter[int] = Counter()
    for image, label in _spread(pairs, _PIXELS):
        raw = _label_values(path, image, label)
        raw_total += raw
        seen = Counter()
        for value, count in raw.items():
            seen[_trained(value, dataset)] += count
        outside = {value for value in raw if not 0 <= _trained(value, dataset) < len(classes)}
        outside -= {value for value in raw if _trained(value, dataset) in ignore}
        if outside:
            value = max(outside)
            needed = _trained(value, dataset) + 1
            advice = f'give dataset and num_classes {needed} classes, or write {_IGNORE} into such pixels.'
            if outside == {len(classes)} and not dataset.reduce_zero_label:
                advice = f'did you forget reduce_zero_label=True (0 ignored, 1 to {value} are the classes)?'
            raise UserError(
                f'{path}: the label {os.path.abspath(label)!r} has the value {value}, but there are '
                f'{len(classes)} classes (reduce_zero_label={dataset.reduce_zero_label}, '
                f'void {min(ignore)}); {advice}'
            )
        total += seen
    pixels = sum(total.values())
    void = sum(count for value, count in total.items() if value in ignore)
    if void == pixels:
        raise UserError(
            f'{path}: every pixel of {min(len(pairs), _PIXELS)} sampled label files is ignored: they hold '
            f'only {sorted(raw_total)} (reduce_zero_label={dataset.reduce_zero_label}, void {min(ignore)}).'
        )
    if set(raw_total) == {0, _IGNORE} and len(classes) > 1:
        report.notes.append(
            f'the labels hold only 0 and {_IGNORE}, and {_IGNORE} is ignored: write 0 and 1 for two classes'
        )
    report.ignored = void / pixels
    report.shares = {name: total[index] / pixels for index, name in enumerate(classes)}


def _trained(value: int, dataset: Any) -> int:
    """The class that a pixel value becomes in mmseg's ``LoadAnnotations``."""
    if dataset.reduce_zero_label:
        value = _IGNORE if value in (0, _IGNORE) else value - 1
    return (dataset.label_map or {}).get(value, value)


def _label_values(path: str, image: str, label: str) -> Counter[int]:
    """How many pixels have which value, read as mmseg reads it: a palette image gives its indices."""
    try:
        with Image.open(label) as opened:
            pixels = np.asarray(opened).squeeze()
    except Exception as error:
        raise _unreadable(path, 'label', label, error) from error
    if pixels.ndim != 2:
        raise UserError(
            f'{path}: the label {os.path.abspath(label)!r} has {pixels.shape[-1]} channels; expected one, '
            'whose values are the class indices: convert the colours to indices.'
        )
    try:
        with Image.open(image) as opened:
            width, height = opened.size
    except Exception:  # a format that pillow does not know; _check_files has looked at it
        width, height = pixels.shape[::-1]
    if (height, width) != pixels.shape:
        raise UserError(
            f'{path}: the label {os.path.abspath(label)!r} is {pixels.shape[1]}x{pixels.shape[0]} pixels '
            f'but its image is {width}x{height}.'
        )
    values, counts = np.unique(pixels, return_counts=True)
    return Counter(dict(zip(values.astype(int).tolist(), counts.tolist(), strict=True)))


# ----------------------------------------------------------------------------------------------- detection
def _check_coco(dataset: Any, path: str, root: str, leaf: dict) -> DatasetReport:
    file = os.path.abspath(dataset.ann_file)
    content = _read_coco(path, file, dataset.test_mode)
    classes = list(dataset.metainfo.get('classes') or ())
    names = [category['name'] for category in content['categories']]
    wanted = {each['id']: each['name'] for each in content['categories'] if each['name'] in classes}
    both = f'config: {_first(classes, 10)} | file: {_first(names, 10)}'
    if not wanted:
        raise UserError(f'{path}: no image left: no class name of the config is in {file!r} ({both}).')
    if absent := [name for name in classes if name not in names]:
        raise UserError(
            f'{path}: class {absent[0]!r} of the config is not in {file!r}, which would shift the labels of '
            f'the others ({len(absent)} absent; {both}).'
        )
    if list(wanted.values()) != classes:
        raise UserError(f'{path}: the classes must be in the order of {file!r}, since mmdet numbers them so ({both}).')
    ids = {category['id'] for category in content['categories']}
    masks = any(step.get('with_mask') for step in leaf.get('pipeline') or () if isinstance(step, dict))
    instances: dict[Any, list[str]] = {}  # image id -> class names, without crowds
    for annotation in content.get('annotations', ()):
        for key in ('image_id', 'category_id', 'bbox', *(['segmentation'] if masks else [])):
            if not annotation.get(key) and annotation.get(key) != 0:
                raise UserError(f'{path}: annotation {annotation.get("id")} of {file!r} has no {key!r}.')
        if annotation['category_id'] not in ids:
            raise UserError(
                f'{path}: annotation {annotation.get("id")} of {file!r} has category_id '
                f'{annotation["category_id"]!r}, not among its categories ({_first(sorted(ids), 10)}).'
            )
        if annotation['category_id'] in wanted:
            names_of_image = instances.setdefault(annotation['image_id'], [])
            if not annotation.get('iscrowd'):
                names_of_image.append(wanted[annotation['category_id']])
    filters = {} if dataset.test_mode else dataset.filter_cfg or {}
    kept = [
        image
        for image in content['images']
        if min(image['width'], image['height']) >= filters.get('min_size', 0)
        and (image['id'] in instances or not filters.get('filter_empty_gt', False))
    ]
    if not kept:
        raise UserError(
            f'{path}: no image left: 0 of {len(content["images"])} images of {file!r} pass {dict(filters)}; '
            f'{len(instances)} of them have annotations of the classes ({both}).'
        )
    _check_files(path, [os.path.join(dataset.data_prefix['img'], image['file_name']) for image in kept], leaf)
    total = Counter(name for image in kept for name in instances.get(image['id'], ()))
    count = sum(total.values())
    shares = {name: total[name] / max(count, 1) for name in classes}
    return DatasetReport(path, root, len(kept), instances=count, shares=shares)


def _read_coco(path: str, file: str, test_mode: bool) -> dict:
    collecting = gc.isenabled()
    gc.disable()  # COCO's millions of objects have no cycles: looking for some costs more than reading
    try:
        with open(file, encoding='utf-8') as opened:
            content = json.load(opened)
    except ValueError as error:  # broken JSON or broken UTF-8
        raise UserError(f'{path}: {file!r} is not JSON ({error}); was the download cut short?') from error
    finally:
        if collecting:
            gc.enable()
    needed = {'images': ('id', 'file_name', 'height', 'width'), 'categories': ('id', 'name')}
    if not test_mode:
        needed['annotations'] = ('image_id',)
    for key, entries in needed.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            there = _first(list(content), 8) if isinstance(content, dict) else f'a {type(content).__name__}'
            raise UserError(f'{path}: {file!r} is not a COCO file: no list {key!r}; there is: {there}.')
        for item in content[key]:
            for entry in entries:
                if entry not in item:
                    raise UserError(f'{path}: an item of {key!r} in {file!r} has no {entry!r}: {_short(item)}.')
    return content


def _check_truth(cfg: Config, key: str, path: str, leaf: dict) -> None:
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
            raise UserError(
                f'{option}={scored!r} is not the file of {path}, {file!r}, whose images it scores; set {option}={file}.'
            )


# --------------------------------------------------------------------------------------------------- files
def _check_files(path: str, images: Sequence[str], leaf: dict) -> None:
    missing = [name for name in images if not os.path.isfile(name)]
    if missing:
        raise UserError(
            f'{path}: {len(missing)} of {len(images)} image files do not exist, the first is '
            f'{os.path.abspath(missing[0])!r}; check data_root and data_prefix.'
        )
    _check_sizes(path, 'image', images)
    loaders = [str(step.get('type')) for step in leaf.get('pipeline') or () if isinstance(step, dict)]
    if not any(name.endswith('LoadImageFromFile') for name in loaders):
        return  # arrays, satellite formats: not ours to judge
    decoded = set(_spread(images, _PIXELS))
    for name in {*_spread(images, _HEADERS), *decoded}:
        if reason := why_unreadable(name, decode=name in decoded):
            raise _unreadable(path, 'image', name, reason)


def _check_sizes(path: str, kind: str, names: Sequence[str]) -> None:
    for name in names:
        if os.path.getsize(name) == 0:
            raise _unreadable(path, kind, name, 'the file is empty')


def _unreadable(path: str, kind: str, name: str, reason: object) -> UserError:
    return UserError(
        f'{path}: cannot read the {kind} {os.path.abspath(name)!r} ({reason}); '
        'copy it again or take it out of the dataset.'
    )


def _suffixes(folder: str) -> str:
    counts = Counter(Path(name).suffix for _, _, names in os.walk(folder) for name in names)
    most = [f'{suffix or "no suffix"} ({count})' for suffix, count in counts.most_common(5)]
    return ', '.join(most) or 'no file'


def _spread(items: Sequence, count: int) -> list:
    """At most ``count`` of the items, evenly spread, the first included."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _first(items: Sequence, count: int) -> str:
    return ', '.join(map(str, items[:count])) + (f', ... ({len(items)})' if len(items) > count else '')


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + '...'
