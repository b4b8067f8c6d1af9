"""Send a few samples through a pipeline and the model's preprocessor, as the first batch and the first validation will.

The order of the steps, sizes within a batch, and what the packing leaves out show only here: in training at the first
iteration, in validation hours later.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine import registry as registries
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from ...random_numbers import random_numbers_restored
from .report import DatasetReport
from .steps import kind_of

__all__ = ['SAMPLES', 'try_pipeline']

SAMPLES = 4  # of a data set, at most
# What mmdet's heads and CocoMetric, and mmseg's segmentors, ask of a sample that is predicted.
_META = {'DetDataSample': ('img_id', 'ori_shape', 'img_shape', 'scale_factor'), 'SegDataSample': ('ori_shape',)}


def try_pipeline(report: DatasetReport, leaf: dict, cfg: Config, infos: Sequence[dict]) -> None:
    """Note where the pipeline, or the preprocessor, fails on samples, or gives what the model cannot take.

    Args:
        leaf: the data set in the config; nothing is tried where a data set around it has a pipeline too.
        infos: what the data set hands to its pipeline, of a few samples whose files are sound; changed in place.
    """
    pipeline = leaf.get('pipeline')
    split = report.path.partition('_')[0]
    if not pipeline or not infos or report.errors or _is_wrapped(cfg, report.path):
        return
    place = f'{report.path}.pipeline'
    with random_numbers_restored(), _scope(cfg) as registry:
        samples = list(_samples(report, place, pipeline, registry, infos))
        if report.errors or not samples:
            return
        last = kind_of(pipeline[-1]) if isinstance(pipeline[-1], dict) else str(pipeline[-1])
        pack = 'PackDetInputs' if cfg.get('default_scope') == 'mmdet' else 'PackSegInputs'
        if not all(isinstance(each, dict) and 'inputs' in each and 'data_samples' in each for each in samples):
            message = (
                f"it ends with {last}, and nothing packs the sample for the model; end it with dict(type='{pack}')."
            )
            if any(isinstance(each, dict) and 'data_samples' in each for each in samples):
                message = "no step loads the image; begin with dict(type='LoadImageFromFile')."
            report.add('error', 'pipeline-not-packed', message, place=place)
            return
        packed = type(samples[0]['data_samples']).__name__
        wanted = {'mmseg': 'SegDataSample', 'mmdet': 'DetDataSample'}.get(cfg.get('default_scope'), packed)
        if packed in _META and packed != wanted:
            message = f"{last} packs a {packed}, and the model takes a {wanted}; end it with dict(type='{pack}')."
            report.add('error', 'pipeline-not-packed', message, place=place)
            return
        for fault in (_labels, _meta):
            if wrong := fault(samples[0], split, cfg):
                report.add('error', wrong[0], wrong[1], place=place)
                return
        _preprocess(report, place, cfg, samples, split)


def _samples(
    report: DatasetReport, place: str, pipeline: Sequence[Any], registry: Any, infos: Sequence[dict]
) -> Iterator[Any]:
    """What comes out; nothing of samples that a step leaves out, such as crops without an object."""
    built = []
    for index, step in enumerate(pipeline):
        where = f'{place}[{index}]'
        try:
            built.append((where, registry.build(step) if isinstance(step, dict) else step))
        except Exception as error:
            report.add('error', 'pipeline-fails', f'{_kind(step)} cannot be built: {_reason(error)}.', place=where)
            return
    for info in infos:
        name, sample = info.get('img_path'), info
        for where, step in built:
            try:
                sample = step(sample)
            except Exception as error:
                message = f'{type(step).__name__} fails on {name!r}: {_reason(error)}; compare the steps before it.'
                report.add('error', 'pipeline-fails', message, [str(name)], place=where)
                return
            if sample is None:
                break
        if sample is not None:
            yield sample


def _labels(sample: dict, split: str, cfg: Config) -> tuple[str, str] | None:
    """Whether a label map is there, and lies on its image."""
    packed = sample['data_samples']
    labels = getattr(packed, 'gt_sem_seg', None)
    evaluator = repr(cfg.get(f'{split}_evaluator'))
    scored = split != 'train' and 'IoUMetric' in evaluator and 'format_only' not in evaluator
    if labels is None:
        if scored and type(packed).__name__ == 'SegDataSample':
            message = (
                f'no step loads the label maps that {split}_evaluator compares with; '
                "add dict(type='LoadAnnotations') behind the resize."
            )
            return 'annotations-not-loaded', message
        return None
    size, image = tuple(labels.data.shape[-2:]), tuple(sample['inputs'].shape[-2:])
    original = packed.metainfo.get('ori_shape')
    if split == 'train' and size != image:
        message = (
            f'images come out of it as {image[1]}x{image[0]} pixels, their label maps as {size[1]}x{size[0]}; put '
            'LoadAnnotations before the steps that resize, crop or flip.'
        )
        return 'pipeline-misaligned', message
    if scored and original and size != tuple(original[:2]):
        message = (
            f'the label maps are resized too, to {size[1]}x{size[0]}, but predictions are scored at the size of the '
            f'file, {original[1]}x{original[0]}; put LoadAnnotations behind the resize.'
        )
        return 'pipeline-misaligned', message
    return None


def _meta(sample: dict, split: str, cfg: Config) -> tuple[str, str] | None:
    """Whether a sample that is predicted says of itself what is asked then."""
    packed = sample['data_samples']
    needed = () if split == 'train' else _META.get(type(packed).__name__, ())
    absent = [key for key in needed if key not in packed.metainfo]
    if not absent:
        return None
    message = f'the samples lack {", ".join(absent)}, which the prediction asks for; name it in meta_keys of the packer'
    if 'scale_factor' in absent:
        message += ", and have a dict(type='Resize', ...) (scale_factor=1.0 changes nothing)"
    return 'meta-missing', f'{message}.'


def _preprocess(report: DatasetReport, place: str, cfg: Config, samples: list[dict], split: str) -> None:
    given = (cfg.get('model') or {}).get('data_preprocessor')
    if not isinstance(given, dict):
        return
    try:
        preprocessor = registries.MODELS.build(given)
    except Exception:  # the check of the model names it
        return
    loader = cfg.get(f'{split}_dataloader') or {}
    batch = loader.get('batch_size', 1)
    samples = samples[: batch if isinstance(batch, int) else 1]
    sizes = list(dict.fromkeys(f'{each["inputs"].shape[-1]}x{each["inputs"].shape[-2]}' for each in samples))
    try:
        preprocessor(pseudo_collate(samples), training=split == 'train')
    except Exception as error:
        message = f'the model.data_preprocessor cannot take such a batch: {_reason(error)}.'
        if len(sizes) > 1:
            cure = (
                "cut one size with dict(type='RandomCrop', crop_size=...) behind the resize, and give it to "
                'model.data_preprocessor.size too'
                if split == 'train'
                else f'set {split}_dataloader.batch_size=1'
            )
            message = f'images of one batch come out in several sizes ({", ".join(sizes)}); {cure}.'
        report.add('error', 'batch-fails', message, place=place)


def _is_wrapped(cfg: Config, path: str) -> bool:
    """Whether a data set around this one has steps of its own, as mmdet's ``MultiImageMixDataset``."""
    value: Any = cfg
    for name in re.findall(r'\w+', path):
        if isinstance(value, dict) and 'pipeline' in value:
            return True
        value = value[int(name)] if isinstance(value, (list, tuple)) else value[name]
    return False


@contextmanager
def _scope(cfg: Config) -> Iterator[Any]:
    with registries.TRANSFORMS.switch_scope_and_registry(cfg.get('default_scope') or 'mmengine') as registry:
        yield registry


def _kind(step: Any) -> str:
    return kind_of(step) if isinstance(step, dict) else type(step).__name__


def _reason(error: Exception) -> str:
    text = ' '.join(str(error).split()).rstrip('.')[:300]
    if text:
        return text
    line = traceback.extract_tb(error.__traceback__)[-1].line  # an assertion says itself what it wants
    return f'{type(error).__name__}, {line}' if line else type(error).__name__
