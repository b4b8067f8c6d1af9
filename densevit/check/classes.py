"""Classes as a config states them: their names and numbers in datasets, heads, losses and evaluators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..signatures import parameters
from .data.heads import VOID, heads_of, num_classes_of
from .data.steps import kind_of, label_loaders, leaves, steps
from .data.text import first
from .finding import Finding

__all__ = ['class_findings', 'metrics']


class _Dataset(NamedTuple):
    """What a config, and the class of a dataset, say about it."""

    place: str
    leaf: dict
    factory: Any
    names: tuple[str, ...] | None


def metrics(cfg: Config, split: str) -> Iterator[tuple[str, dict]]:
    """The metrics of a split's evaluator, with their places in the config."""
    given = cfg.get(f'{split}_evaluator')
    if isinstance(given, dict) and 'metrics' in given:
        given = given['metrics']
    several = isinstance(given, (list, tuple))
    for index, metric in enumerate(given if several else [given]):
        if isinstance(metric, dict):
            yield f'{split}_evaluator' + (f'[{index}]' if several else ''), metric


def class_findings(cfg: Config, splits: Iterable[str] = ('train', 'val', 'test')) -> Iterator[Finding]:
    """Class counts across heads, datasets, losses and evaluators, and names beside names; no file is opened."""
    datasets: dict[str, list[_Dataset]] = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if isinstance(loader, dict):
            found = leaves(loader.get('dataset'), f'{split}_dataloader.dataset')
            datasets[split] = [_read(cfg, place, leaf) for place, leaf in found]
    seen: list[dict] = []
    for each in (each for group in datasets.values() for each in group):
        if each.leaf not in seen:  # test is mostly the same as val
            seen.append(each.leaf)
            yield from _names_of_one(each)
    yield from _counts(cfg, datasets)
    yield from _names_beside_names(datasets)
    yield from _zero_labels(datasets)
    yield from _losses(cfg)
    yield from _void(cfg, datasets)


def _read(cfg: Config, place: str, leaf: dict) -> _Dataset:
    factory = leaf.get('type')
    if isinstance(factory, str):
        try:
            with DATASETS.switch_scope_and_registry(cfg.get('default_scope') or 'mmengine') as registry:
                factory = registry.get(factory)
        except (RuntimeError, ValueError):  # the check of types names it
            factory = None
    names = (leaf.get('metainfo') or {}).get('classes', getattr(factory, 'METAINFO', {}).get('classes'))
    if isinstance(names, str):  # a file with a name per line, as mmengine reads it
        names = Path(names).read_text(encoding='utf-8').split('\n') if Path(names).is_file() else None
        names = [name.strip() for name in names if name.strip()] if names else None
    return _Dataset(place, leaf, factory, tuple(map(str, names)) if names else None)


def _names_of_one(dataset: _Dataset) -> Iterator[Finding]:
    info = dataset.leaf.get('metainfo') or {}
    place = f'{dataset.place}.metainfo'
    given = info.get('classes')
    if isinstance(given, str) and not Path(given).is_file():
        message = (
            f'classes={given!r} is a string, not a list of names; did you mean classes=({given!r},)? (A name alone in '
            'parentheses needs a comma.)'
        )
        yield Finding('error', 'classes-not-a-list', place, message)
    for old, today in (('CLASSES', 'classes'), ('PALETTE', 'palette')):
        if old in info:
            message = f'{old!r} is not read: write metainfo=dict({today}=...), in small letters.'
            yield Finding('error', 'old-config-key', place, message)
    names = dataset.names or ()
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        yield Finding('error', 'class-named-twice', place, f'{first(twice, 5)} is twice among {len(names)} classes.')
    near = [
        name
        for name, count in Counter(name.strip().lower() for name in set(names)).items()
        if count > 1 and len(name) > 2
    ]  # letters may be classes
    if near:
        message = f'class names that differ in capitals or blanks only: {first(near, 5)}; is one of each too much?'
        yield Finding('warning', 'class-named-twice', place, message)
    palette = info.get('palette')
    if isinstance(palette, (list, tuple)) and names and len(palette) != len(names):
        message = f'palette has {len(palette)} colours for {len(names)} classes; give as many.'
        yield Finding('warning', 'palette-length', place, message)


def _counts(cfg: Config, datasets: dict[str, list[_Dataset]]) -> Iterator[Finding]:
    counts = {place: num_classes_of(cfg, head) for place, head in heads_of(cfg).items()}
    counts = {place: count for place, count in counts.items() if isinstance(count, int)}
    told: set[tuple[str, ...]] = set()
    for dataset in (each for group in datasets.values() for each in group):
        # open vocabulary: the names are inputs
        if not dataset.names or dataset.names in told or dataset.leaf.get('return_classes'):
            continue
        told.add(dataset.names)
        wrong = {place: count for place, count in counts.items() if count != len(dataset.names)}
        if wrong and dataset.factory is not None:
            found = ', '.join(f'{place}.num_classes={count}' for place, count in wrong.items())
            message = (
                f'it has {len(dataset.names)} classes ({first(dataset.names, 5)}) but the model {found}; set '
                f'num_classes={len(dataset.names)} there, or metainfo=dict(classes=...) of the dataset.'
            )
            shift = [place for place, count in wrong.items() if count == len(dataset.names) + 1]
            if shift and cfg.get('default_scope') == 'mmdet':
                message += ' mmdetection counts no background.'
            yield Finding('error', 'class-count', dataset.place, message)
    known = any(each.names for group in datasets.values() for each in group)
    if not known and len(set(counts.values())) > 1:
        found = ', '.join(f'{place}.num_classes={count}' for place, count in counts.items())
        message = f'the heads count different classes: {found}; give all the same.'
        yield Finding('error', 'class-count', 'model', message)


def _names_beside_names(datasets: dict[str, list[_Dataset]]) -> Iterator[Finding]:
    reference = next((each for each in datasets.get('train', ()) if each.names), None)
    if reference is None:
        return
    others = [each for group in datasets.values() for each in group if each is not reference and each.names]
    told: set[tuple[str, ...]] = set()
    for each in others:
        if each.names == reference.names or each.names in told:
            continue
        told.add(each.names)
        both = f'{reference.place}: {first(reference.names, 8)} | {each.place}: {first(each.names, 8)}'
        if Counter(each.names) == Counter(reference.names):
            number = next(i for i, (a, b) in enumerate(zip(reference.names, each.names)) if a != b)
            message = (
                f'the same classes in another order, from number {number} on, so they are scored as each other; give '
                f'both one order ({both}).'
            )
            yield Finding('error', 'class-order', f'{each.place}.metainfo', message)
        elif len(each.names) == len(reference.names):
            number = next(i for i, (a, b) in enumerate(zip(reference.names, each.names)) if a != b)
            message = (
                f'class {number} is {each.names[number]!r} here and {reference.names[number]!r} in '
                f'{reference.place}; give both the same names ({both}).'
            )
            yield Finding('warning', 'class-names', f'{each.place}.metainfo', message)
        else:
            message = (
                f'{len(each.names)} classes, but {len(reference.names)} in {reference.place}; give both the same '
                f'metainfo ({both}).'
            )
            yield Finding('warning', 'class-names', f'{each.place}.metainfo', message)


def _zero_labels(datasets: dict[str, list[_Dataset]]) -> Iterator[Finding]:
    def flag(each: _Dataset) -> Any:
        known = parameters(each.factory)[0] if each.factory else {}
        default = known['reduce_zero_label'].default if 'reduce_zero_label' in known else None
        return each.leaf.get('reduce_zero_label', default)

    flags = {each.place: flag(each) for group in datasets.values() for each in group}
    flags = {place: value for place, value in flags.items() if isinstance(value, bool)}
    if len(set(flags.values())) > 1:
        found = ', '.join(f'{place}: {value}' for place, value in flags.items())
        message = (
            f'reduce_zero_label is not the same everywhere ({found}), which shifts the classes of one against the '
            'other; give all the same: True where label 0 is void and 1 the first class.'
        )
        yield Finding('error', 'reduce-zero-label', next(iter(flags)), message)
    for each in (each for group in datasets.values() for each in group):
        for place, step in label_loaders(each.leaf, each.place):
            if each.place in flags and step['reduce_zero_label'] != flags[each.place]:
                message = (
                    f'reduce_zero_label={step["reduce_zero_label"]} but {each.place}.reduce_zero_label='
                    f'{flags[each.place]}; give both the same: True where label 0 is void and 1 the first class, '
                    'False where 0 is the first class.'
                )
                yield Finding('error', 'reduce-zero-label', place, message)


def _losses(cfg: Config) -> Iterator[Finding]:
    for place, head in heads_of(cfg).items():
        count = num_classes_of(cfg, head)
        for key, given in head.items():
            for loss in given if isinstance(given, (list, tuple)) else [given]:
                weights = loss.get('class_weight') if isinstance(loss, dict) and key.startswith('loss') else None
                if not isinstance(weights, (list, tuple)) or not isinstance(count, int):
                    continue
                # some losses have a weight for the background too: mmdet's softmax, MaskFormer's
                plain = key == 'loss_decode' and cfg.get('default_scope') == 'mmseg'
                if len(weights) != count and (plain or len(weights) != count + 1):
                    message = f'class_weight has {len(weights)} numbers for {count} classes; give one for each.'
                    yield Finding('error', 'class-weight', f'{place}.{key}', message)
        loss = head.get('loss_decode') or {}
        losses = loss if isinstance(loss, (list, tuple)) else [loss]
        kind = [each for each in losses if str(each.get('type', 'CrossEntropyLoss')).endswith('CrossEntropyLoss')]
        if count == 1 and kind and not any(each.get('use_sigmoid') for each in kind) and 'roi_head' not in place:
            message = (
                'num_classes=1 with a softmax over one class always predicts this class, and its loss is 0; use '
                'num_classes=2 with the background as class 0, or loss_decode=dict(use_sigmoid=True) and threshold=0.5.'
            )
            if 'decode' in place or 'auxiliary' in place:
                yield Finding('error', 'one-class-softmax', place, message)


def _void(cfg: Config, datasets: dict[str, list[_Dataset]]) -> Iterator[Finding]:
    """The void label: of the losses, of the padding, of the evaluators."""
    heads = {place: head for place, head in heads_of(cfg).items() if 'num_classes' in head}  # depth has no classes
    if not any('decode_head' in place for place in heads):
        return
    ignored = {place: head.get('ignore_index', VOID) for place, head in heads.items()}
    if len(set(ignored.values())) > 1:
        found = ', '.join(f'{place}: {value}' for place, value in ignored.items())
        message = f'the heads ignore different labels ({found}); give all the same ignore_index.'
        yield Finding('error', 'void-label', 'model', message)
        return
    (void,) = set(ignored.values())
    pads: list[tuple[str, Any]] = []
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or {}
    if 'seg_pad_val' in preprocessor or preprocessor.get('size') or preprocessor.get('size_divisor'):
        pads.append(('model.data_preprocessor.seg_pad_val', preprocessor.get('seg_pad_val', VOID)))
    for each in datasets.get('train', ()):
        for place, step in steps(each.leaf, each.place):
            if 'seg_pad_val' in step:
                pads.append((f'{place}.seg_pad_val', step['seg_pad_val']))
            pad = step.get('pad_val')
            if kind_of(step) == 'Pad' and isinstance(pad, dict) and 'seg' in pad:
                pads.append((f'{place}.pad_val.seg', pad['seg']))
    for place, value in pads:
        if isinstance(value, int) and value != void:
            message = (
                f'padding gets the label {value}, but the loss ignores {void} (ignore_index), so the padding is '
                f'learnt as a class; write {void}.'
            )
            yield Finding('error', 'void-label', place, message)
    for split in ('val', 'test'):
        for place, metric in metrics(cfg, split):
            given = metric.get('ignore_index')
            if kind_of(metric) == 'IoUMetric' and isinstance(given, int) and given != void:
                message = f'ignore_index={given}, but the loss ignores {void}; give both the same.'
                yield Finding('error', 'void-label', place, message)
