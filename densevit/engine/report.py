"""The report of a test: numbers as JSON, and a page that shows them."""

from __future__ import annotations

import copy
import datetime
import math
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_world_size
from mmengine.registry import MODELS, DefaultScope

from ..analysis.complexity import complexity
from ..analysis.detection_errors import DetectionErrors
from ..analysis.pictures import with_names
from ..analysis.segmentation_errors import SegmentationErrors
from ..analysis.training_log import training_curves
from ..benchmark.machine import processor, versions
from ..check.data.steps import leaf_dataset
from ..errors import UserError
from ..evaluation.tables import merged, write_json
from ..pages.page import Card
from ..pages.report import VERSION, write_report_page
from ..pages.thumbnails import Picture, picture
from .conditions import conditions_of_test, dataset_name
from .distributed import unwrapped
from .pictures import draw_sample
from .report_hook import SCORE, ImageRow, ReportHook, objects_of, pixels_of
from .report_pictures import draw_attention, draw_outcome, draw_wrong, recording, shrunk
from .runner import Runner

__all__ = ['check_folder', 'write_report']

SHOWN, LARGE = 6, 640  # of the best and of the worst images; pixels of the longer side
_SCORES = {
    'segmentation': "mean IoU over the classes in the image's truth, in percent",
    'detection': f'F1 of the objects at a box IoU of 0.5, of detections with a score of at least {SCORE}, in percent',
}


def check_folder(folder: str) -> Path:
    """The folder of a report, made before the test begins.

    Raises:
        UserError: nothing can be written there.
    """
    path = Path(folder).resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--report {folder}: the folder cannot be made ({error.strerror}); name another.') from error
    if not os.access(path, os.W_OK):
        raise UserError(f'--report {folder}: nothing can be written there; name another folder.')
    return path


def write_report(
    runner: Runner, metrics: dict[str, float], folder: Path, cfg_options: Mapping[str, Any] | None = None
) -> Path:
    """Write ``index.html``, and for comparisons ``report.json`` and ``thumbnails.json``; return the page's path.

    On the main process, after a test in which a :class:`ReportHook` watched. The images that are shown large are
    predicted once more, now with their attention recorded.

    Args:
        runner: of the test.
        metrics: what it gave.
        folder: where to.
        cfg_options: what the command line changed of the config.
    """
    begin = time.perf_counter()
    hook = next(hook for hook in runner.hooks if isinstance(hook, ReportHook))
    worst, best, examples = _chosen(hook.rows)
    task = 'segmentation' if isinstance(hook.errors, SegmentationErrors) else 'detection'
    large, size = _look_closely(runner, hook, [*worst, *best, *examples])
    data = {
        'version': VERSION,
        'name': Path(runner.cfg.filename).stem if runner.cfg.filename else runner.experiment_name,
        'task': task,
        'conditions': conditions_of_test(runner.cfg, len(hook.rows), cfg_options),
        'classes': hook.names,
        'palette': hook.palette,
        'metrics': metrics,
        'per_class': merged(runner.test_evaluator.metrics, 'per_class'),
        'curves': merged(runner.test_evaluator.metrics, 'curves'),
        **_errors(hook),
        'score': _SCORES[task],
        'images': [{'index': row.index, 'name': row.name, 'score': row.score} for row in hook.rows],
        'training': training_curves(Path(runner.cfg.load_from).parent) if runner.cfg.load_from else {},
        'card': _card(runner, hook, size),
        'config': runner.cfg.pretty_text,
    }
    write_json(folder / 'report.json', data)
    write_json(folder / 'thumbnails.json', {str(row.index): row.pictures for row in hook.rows})
    cards = [
        Card(
            row.name,
            row.pictures,
            row.text,
            large.get(row.index, ()),
            ' '.join(hook.names[index] for index in row.classes if index < len(hook.names)),
            {'score': None if math.isnan(row.score) else round(row.score, 3), 'index': row.index},
        )
        for row in hook.rows
    ]
    by_index = dict(zip((row.index for row in hook.rows), cards))
    page = write_report_page(
        folder / 'index.html',
        data,
        cards=[card._replace(large=()) for card in cards],
        worst=[by_index[row.index] for row in worst],
        best=[by_index[row.index] for row in best],
        examples=[by_index[row.index] for row in examples],
    )
    seconds, megabytes = time.perf_counter() - begin, page.stat().st_size / 1e6
    runner.logger.info(f'report: {page} ({len(cards)} images, {megabytes:.1f} MB, written in {seconds:.1f} s)')
    return page


def _chosen(rows: list[ImageRow]) -> tuple[list[ImageRow], list[ImageRow], list[ImageRow]]:
    """The worst images and the best, or, where nothing is scored, some."""
    scored = sorted((row for row in rows if not math.isnan(row.score)), key=lambda row: (row.score, row.index))
    if not scored:
        return [], [], rows[:SHOWN]
    count = min(SHOWN, len(scored) // 2)
    return scored[: count or 1], scored[len(scored) - count :][::-1], []


def _look_closely(
    runner: Runner, hook: ReportHook, rows: list[ImageRow]
) -> tuple[dict[int, tuple[Picture, ...]], tuple[int, int]]:
    """Large pictures by index; height and width of what the model was given for the last of them."""
    model = unwrapped(runner.model)
    dataset = runner.test_loop.dataloader.dataset
    found, size = {}, (512, 512)
    for row in rows:
        with torch.no_grad(), recording(model) as record:
            sample = model.test_step(pseudo_collate([dataset[row.index]]))[0]
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        size = sample.get('img_shape', image.shape)[:2]
        drawn = {'image': image, **_compared(sample, image, hook), **_wrong(sample, image, hook)}
        classes = row.classes if not math.isnan(row.score) else ()
        drawn |= draw_attention(sample, record, image, hook.names, classes)
        found[row.index] = tuple(picture(shrunk(each, LARGE), caption, quality=75) for caption, each in drawn.items())
    return found, tuple(size)


def _compared(sample: Any, image: np.ndarray, hook: ReportHook) -> dict[str, np.ndarray]:
    """Truth and prediction, with the classes' names."""
    drawn = draw_sample(sample, image, hook.palette, hook.names, SCORE)
    if 'pred_sem_seg' in sample:
        pred, label = pixels_of(sample)
        for name, labels in (('truth', label), ('prediction', pred)):
            if name in drawn and labels is not None and labels.shape == image.shape[:2]:
                drawn[name] = with_names(drawn[name], labels, hook.names)
    return drawn


def _wrong(sample: Any, image: np.ndarray, hook: ReportHook) -> dict[str, np.ndarray]:
    if 'pred_sem_seg' in sample:
        pred, label = pixels_of(sample)
        return {} if label is None else {'errors': draw_wrong(image, pred, label, hook.errors.ignore_index)}
    truth, found, crowds = objects_of(sample)
    if truth is None:
        return {}
    matches = DetectionErrors(len(hook.names), SCORE).add(found, truth, crowds, image.shape[:2])
    return {'errors': draw_outcome(image, truth, found, matches, 1.0)}


def _errors(hook: ReportHook) -> dict[str, Any]:
    """Nothing of it where no truth was known."""
    if hook.errors is None or not hook.errors.counts['confusion'].any():
        return {'confusion': None, 'failures': [], 'position': None}
    return hook.errors.summary()


def _card(runner: Runner, hook: ReportHook, size: tuple[int, int]) -> dict[str, Any]:
    cfg, model = runner.cfg, runner.bare_model
    device = next(model.parameters()).device
    threads = torch.get_num_threads()
    machine = torch.cuda.get_device_name(device) if device.type == 'cuda' else processor()
    dataset = leaf_dataset(cfg.test_dataloader.dataset) or {}
    facts = {
        'model': f'{type(model).__name__}, backbone {type(getattr(model, "backbone", model)).__name__}',
        'checkpoint': str(cfg.load_from) if cfg.load_from else 'no checkpoint',
        'weights': str(runner.report) if runner.report else 'random',
        'data': ', '.join(
            str(each)
            for each in (dataset_name(cfg), dataset.get('type'), f'{len(hook.rows)} images', dataset.get('data_root'))
            if each
        ),
        'speed': f'{hook.speed.images / hook.speed.seconds:.2f} images per second, prediction and scoring'
        if hook.speed.seconds
        else 'not measured: one batch only',
        'machine': f'{machine}; {get_world_size()} process{"es" if get_world_size() > 1 else ""}'
        + (f', {threads} thread{"s" if threads > 1 else ""}' if device.type == 'cpu' else ''),
        'seed': str(runner.seed),
        'command': shlex.join(['python', *sys.argv]),
        'date': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'versions': ', '.join(f'{name} {version}' for name, version in versions().items()),
    }
    parts, what = _complexity(runner, size)
    return {'facts': facts, 'parts': parts, 'parts_of': what}


def _complexity(runner: Runner, size: tuple[int, int]) -> tuple[list[dict[str, Any]], str]:
    """Parameters and multiply-adds by part, and of what."""
    model_cfg = runner.cfg.model
    model_cfg = model_cfg.get('module', model_cfg)  # of test-time augmentation
    test_cfg = model_cfg.get('test_cfg') or {}
    slides = test_cfg.get('mode') == 'slide'
    height, width = test_cfg['crop_size'] if slides else size
    what = f'one {"window" if slides else "image"} of {height} x {width} pixels'
    try:
        scope = DefaultScope.overwrite_default_scope(runner.cfg.get('default_scope', 'mmengine'))
        with scope, torch.device('meta'):
            counted = complexity(MODELS.build(copy.deepcopy(model_cfg)), (height, width))
    except Exception as error:  # a model of others may do what the meta device cannot; the rest of the report can
        runner.logger.warning(f'report: multiply-adds are not counted: {error}')
        parameters = sum(each.numel() for each in runner.bare_model.parameters())
        counted = {'total': (parameters, None)}
    return [{'part': name, 'params': params, 'macs': macs} for name, (params, macs) in counted.items()], what
