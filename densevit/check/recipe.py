"""The recipe of a config: loops, batch and learning rate, what is saved, and random numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..errors import UserError, did_you_mean
from .batch import batch_line, check_batch, effective_batch, recipe_batch
from .classes import metrics
from .data.steps import kind_of
from .data.text import first
from .finding import Finding
from .schedule import run_length, runs_by_epoch, schedule_findings

__all__ = ['batch_norm_findings', 'custom_key_findings', 'numbers', 'recipe_findings']

# Whole numbers that are calculated with here, or that torch would complain about in its own words.
_COUNTS = (
    *(f'train_cfg.{key}' for key in ('max_iters', 'max_epochs', 'val_interval')),
    *(f'{split}_dataloader.batch_size' for split in ('train', 'val', 'test')),
    'optim_wrapper.accumulative_counts',
    'auto_scale_lr.base_batch_size',
)
# mmengine builds a loop of all three or of none.
_LOOPS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
# By optimizer: a learning rate above which no recipe of the field goes.
_HIGH_RATES = {'Adam': 0.02, 'AdamW': 0.02, 'SGD': 2.0}


def numbers(cfg: Config) -> Iterator[Finding]:
    """Counts and rates that are none."""
    for key in _COUNTS:
        part, name = key.split('.')
        value = _part(cfg, part).get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            yield Finding('error', 'not-a-count', key, f'{value!r}: give a whole number, at least 1.')
    rate = _part(_part(cfg, 'optim_wrapper'), 'optimizer').get('lr')
    if rate is not None and (not isinstance(rate, (int, float)) or not 0 < rate < math.inf):
        message = f'{rate!r}: give a number above 0, such as 6e-5 (without quotation marks).'
        yield Finding('error', 'learning-rate', 'optim_wrapper.optimizer.lr', message)


def _part(value: Any, key: str) -> dict:
    """A part of a config; empty where there is none, or something else, which others say."""
    part = value.get(key)
    return part if isinstance(part, dict) else {}


def recipe_findings(cfg: Config) -> Iterator[Finding]:
    """What is wrong, or probably a mistake, in how a config trains; no file is opened."""
    found = list(numbers(cfg))
    yield from found
    yield from _loops(cfg)
    if any(cfg.get(key) is None for key in _LOOPS['train']) or found:
        return
    yield from schedule_findings(cfg)
    yield from _saving(cfg)
    yield from _batch(cfg)
    yield from _randomness(cfg)


# ---------------------------------------------------------------------------------------------------------- loops
def _loops(cfg: Config) -> Iterator[Finding]:
    for split, keys in _LOOPS.items():
        absent = [key for key in keys if cfg.get(key) is None]
        if len(absent) == 3 and split == 'train':
            message = f'there is nothing to train: the config has none of {", ".join(keys)}; give all three.'
            yield Finding('error', 'incomplete-loop', 'train_cfg', message)
        elif absent and len(absent) < 3:
            there = ', '.join(key for key in keys if key not in absent)
            message = f'{" and ".join(absent)} is missing beside {there}; give all three, or none of them.'
            yield Finding('error', 'incomplete-loop', absent[0], message)
    loader = cfg.get('train_dataloader') or {}
    if runs_by_epoch(cfg) and kind_of(loader.get('sampler') or {}) == 'InfiniteSampler':
        message = (
            'InfiniteSampler never ends, so the first epoch of an EpochBasedTrainLoop would not either; use '
            "type='DefaultSampler', or train_cfg.type='IterBasedTrainLoop'."
        )
        yield Finding('error', 'endless-epoch', 'train_dataloader.sampler', message)
    for split in ('val', 'test'):
        if kind_of((cfg.get(f'{split}_dataloader') or {}).get('sampler') or {}) == 'InfiniteSampler':
            message = (
                "InfiniteSampler never ends, so this evaluation would not either; use type='DefaultSampler', "
                'shuffle=False.'
            )
            yield Finding('error', 'endless-epoch', f'{split}_dataloader.sampler', message)


# ------------------------------------------------------------------------------------------------- what is saved
def _saving(cfg: Config) -> Iterator[Finding]:
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    length, by_epoch = run_length(cfg), runs_by_epoch(cfg)
    place = 'default_hooks.checkpoint'
    if not isinstance(hook, dict) or not isinstance(length, int):
        return
    interval, counts_epochs = hook.get('interval', -1), hook.get('by_epoch', True)
    if counts_epochs and not by_epoch and interval > 0:
        message = (
            f'interval={interval} counts epochs (by_epoch=True is the default), but the loop counts iterations: '
            'nothing would be saved before the end; write by_epoch=False.'
        )
        yield Finding('warning', 'checkpoint-by-epoch', place, message)
    elif counts_epochs == by_epoch and interval > length:
        total = 'max_epochs' if by_epoch else 'max_iters'
        message = f'interval={interval}, but {total}={length}: nothing is saved before the end; give {length} or less.'
        level = 'warning' if hook.get('save_last', True) is False else 'note'
        yield Finding(level, 'checkpoint-never', place, message)
    names = hook.get('save_best')
    if not names or names == 'auto':
        return
    if cfg.get('val_cfg') is None:
        message = f'save_best={names!r}, but the config validates nothing (val_cfg, val_dataloader, val_evaluator).'
        yield Finding('warning', 'save-best', place, message)
        return
    known = _scores(cfg)
    for name in names if isinstance(names, (list, tuple)) else [names]:
        if known and name not in known:
            message = (
                f'save_best={name!r}, but the evaluator gives {first(sorted(known), 8)}: the first validation would '
                'end the run; write one of these.'
            )
            yield Finding('error', 'save-best', place, message)


def _scores(cfg: Config) -> set[str]:
    """The names of what the evaluators of validation give; empty where one of them is not known here."""
    names: set[str] = set()
    for _, metric in metrics(cfg, 'val'):
        kind, prefix = kind_of(metric), metric.get('prefix')
        if kind == 'IoUMetric':
            wanted = metric.get('iou_metrics', ['mIoU'])
            found = {'aAcc'}
            for each in wanted if isinstance(wanted, (list, tuple)) else [wanted]:
                if each == 'mFscore':
                    found |= {'mFscore', 'mPrecision', 'mRecall'}
                else:
                    found |= {each, 'mAcc'}
        elif kind == 'CocoMetric':
            prefix = prefix or 'coco'
            wanted = metric.get('metric', 'bbox')
            wanted = wanted if isinstance(wanted, (list, tuple)) else [wanted]
            items = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
            found = {f'{each}_{item}' for each in wanted for item in items}
            if metric.get('metric_items') or 'proposal' in wanted or 'proposal_fast' in wanted:
                return set()
        else:
            return set()
        names |= {f'{prefix}/{name}' if prefix else name for name in found}
    if str((cfg.get('val_cfg') or {}).get('type')) == 'densevit.ValLoop' and names:
        names.add('val/loss')
    return names


# ---------------------------------------------------------------------------------------------- batch and rate
def _batch(cfg: Config) -> Iterator[Finding]:
    try:
        check_batch(cfg)
    except UserError as error:
        place, _, message = str(error).partition('=')
        yield Finding('error', 'batch-norm-of-one-image', place, f'batch_size={message}')
    recipe = recipe_batch(cfg)
    if (cfg.get('auto_scale_lr') or {}).get('enable'):
        message = 'enable=True is not read: give tools/train.py --auto-scale-lr, which counts accumulation too.'
        yield Finding('warning', 'auto-scale-lr', 'auto_scale_lr', message)
    has_numbers = isinstance(cfg.train_dataloader.get('batch_size'), int) and 'lr' in (
        cfg.optim_wrapper.get('optimizer') or {}
    )
    if not has_numbers:
        return
    if isinstance(recipe, int) and effective_batch(cfg) != recipe:
        yield Finding('warning', 'batch-and-rate', 'train_dataloader.batch_size', batch_line(cfg, False))
    else:
        yield Finding('note', 'batch-and-rate', 'train_dataloader.batch_size', batch_line(cfg, False))
    optimizer = cfg.optim_wrapper.optimizer
    limit = _HIGH_RATES.get(kind_of(optimizer))
    if limit and optimizer.lr > limit:
        message = (
            f'{optimizer.lr} is high for {kind_of(optimizer)}, whose rates in this field stay below {limit}; was it '
            'taken from the recipe of another optimizer?'
        )
        yield Finding('warning', 'learning-rate', 'optim_wrapper.optimizer.lr', message)


def batch_norm_findings(cfg: Config, model: nn.Module) -> Iterator[Finding]:
    """BatchNorm that would learn from one image at a time, and SyncBN where it cannot run.

    Args:
        cfg: the config.
        model: built, on any device; its SyncBN may be turned back into BatchNorm already.
    """
    if 'SyncBN' in repr(cfg.get('model')) and not torch.cuda.is_available():
        message = (
            "norm_cfg=dict(type='SyncBN') works on a GPU only, and there is none here; write type='BN', which "
            'becomes SyncBN where a run is distributed on CUDA.'
        )
        yield Finding('error', 'sync-bn-on-cpu', 'model', message)
    if (cfg.get('train_dataloader') or {}).get('batch_size') != 1:
        return
    fixed = model.backbone if getattr(getattr(model, 'backbone', None), 'norm_eval', False) else nn.Identity()
    still = set(fixed.modules())
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
    names = [name for name, each in model.named_modules() if isinstance(each, kinds) and each not in still]
    if names:
        message = (
            f'one image, and {len(names)} layers with BatchNorm (model.{names[0]}), whose statistics of one image are '
            "noise; use batch_size=2 or more, or norm_cfg=dict(type='GN', num_groups=32)."
        )
        yield Finding('warning', 'batch-norm-of-one-image', 'train_dataloader.batch_size', message)


def custom_key_findings(cfg: Config, model: nn.Module) -> Iterator[Finding]:
    """Settings for parameters that the model does not have, over which mmengine passes in silence."""
    place = 'optim_wrapper.paramwise_cfg.custom_keys'
    names = [name for name, _ in model.named_parameters()]
    for key, settings in _part(_part(_part(cfg, 'optim_wrapper'), 'paramwise_cfg'), 'custom_keys').items():
        if any(key in name for name in names):
            continue
        known = {*(part for name in names for part in name.split('.')), *(name for name, _ in model.named_modules())}
        message = f'no parameter has {key!r} in its name, so this changes nothing{did_you_mean(key, known) or "."}'
        # one list of what does not decay serves all variants of a model, and some lack a part, as Swin its pos_embed
        decay_only = isinstance(settings, dict) and set(settings) == {'decay_mult'}
        yield Finding('note' if decay_only else 'warning', 'custom-key-unused', place, message)


# ----------------------------------------------------------------------------------------------- random numbers
def _randomness(cfg: Config) -> Iterator[Finding]:
    given = cfg.get('randomness') or {}
    seed = given.get('seed')
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32):
        message = f'{seed!r}: give a whole number from 0 to 4294967295.'
        yield Finding('error', 'seed', 'randomness.seed', message)
    elif given.get('deterministic') and seed is None:
        message = (
            'deterministic=True without a seed: every run draws other random numbers; write randomness=dict(seed=0, '
            'deterministic=True), or use --seed.'
        )
        yield Finding('warning', 'seed', 'randomness', message)
    if given.get('deterministic') and torch.cuda.is_available():
        message = (
            'on CUDA the backward passes of bilinear resizing, adaptive pooling and RoIAlign have no deterministic '
            'form: results of two runs differ in the last digits.'
        )
        yield Finding('note', 'not-deterministic', 'randomness', message)
