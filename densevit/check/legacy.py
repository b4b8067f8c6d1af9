"""What mmcv 1.x, mmsegmentation 0.x and mmdetection 2.x called things, and what they are called today.

Read from the migration guides of mmengine, mmsegmentation and mmdetection (``docs/en/migration``). Old configs are
still copied from papers' repositories; mmengine merges their keys silently and trains without them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .finding import Finding

__all__ = ['find_old_fields', 'today_of_argument', 'today_of_module', 'today_of_type']

# Old field: the fields that have taken its place (where one of them is there, the old name may be a variable), and how.
_FIELDS: dict[str, tuple[tuple[str, ...], str]] = {
    'optimizer': (('optim_wrapper',), "optim_wrapper=dict(type='OptimWrapper', optimizer=dict(...))"),
    'optimizer_config': (('optim_wrapper',), 'optim_wrapper=dict(clip_grad=..., accumulative_counts=...)'),
    'lr_config': (('param_scheduler',), "param_scheduler=[dict(type='LinearLR', ...), dict(type='PolyLR', ...)]"),
    'momentum_config': (('param_scheduler',), 'param_scheduler'),
    'runner': (('train_cfg',), "train_cfg=dict(type='IterBasedTrainLoop', max_iters=..., val_interval=...)"),
    'total_epochs': (('train_cfg',), "train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=...)"),
    'data': (
        ('train_dataloader', 'val_dataloader', 'test_dataloader'),
        'train_dataloader, val_dataloader and test_dataloader, each with batch_size, num_workers and dataset',
    ),
    'evaluation': (('val_evaluator',), 'val_evaluator=dict(type=...) and train_cfg.val_interval'),
    'checkpoint_config': ((), "default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=...))"),
    'log_config': ((), "default_hooks=dict(logger=dict(type='LoggerHook', interval=...)), and visualizer"),
    'resume_from': ((), 'load_from=... with resume=True, or tools/train.py --resume'),
    'fp16': ((), "optim_wrapper.type='AmpOptimWrapper', or tools/train.py --amp"),
    'dist_params': ((), 'env_cfg=dict(dist_cfg=dict(backend=...))'),
    'cudnn_benchmark': ((), 'env_cfg=dict(cudnn_benchmark=...)'),
    'seed': ((), 'randomness=dict(seed=...)'),
    'deterministic': ((), 'randomness=dict(deterministic=...)'),
    'gpu_ids': ((), 'torchrun and --launcher'),
}
# Old argument, by the registry of what had it: today's.
_ARGUMENTS: dict[str, dict[str, str]] = {
    'data sampler': {'samples_per_gpu': 'batch_size', 'workers_per_gpu': 'num_workers'},
    'transform': {'img_scale': 'scale', 'flip_ratio': 'prob', 'multiscale_mode': "type='RandomChoiceResize'"},
    'dataset': {
        'img_dir': 'data_prefix=dict(img_path=...)',
        'ann_dir': 'data_prefix=dict(seg_map_path=...)',
        'img_prefix': 'data_prefix=dict(img=...)',
        'seg_prefix': 'data_prefix=dict(seg=...)',
        'split': 'ann_file',
        'classes': 'metainfo=dict(classes=...)',
        'CLASSES': 'metainfo=dict(classes=...)',
        'PALETTE': 'metainfo=dict(palette=...)',
        'palette': 'metainfo=dict(palette=...)',
    },
}
_TYPES = {
    'DefaultFormatBundle': "'PackSegInputs' or 'PackDetInputs'",
    'Collect': "'PackSegInputs' or 'PackDetInputs'",
    'MultiScaleFlipAug': "'TestTimeAug', below tta_pipeline",
    'TextLoggerHook': "'LoggerHook'",
    'TensorboardLoggerHook': "'TensorboardVisBackend', below visualizer.vis_backends",
    'EvalHook': 'val_evaluator and train_cfg.val_interval',
    'Fp16OptimizerHook': "optim_wrapper.type='AmpOptimWrapper'",
    'IterBasedRunner': "train_cfg.type='IterBasedTrainLoop'",
    'EpochBasedRunner': "train_cfg.type='EpochBasedTrainLoop'",
    'CustomDataset': "'BaseSegDataset'",
}
_MODULES = {
    'mmcv.runner': 'mmengine.runner, .model (BaseModule) or .hooks',
    'mmcv.parallel': 'mmengine.model',
    'mmcv.engine': 'mmengine.runner',
    'mmcv.fileio': 'mmengine.fileio',
    'mmcv.utils': 'mmengine.utils, .config, .registry or .logging',
    'mmseg.core': 'mmseg.engine, .evaluation or .structures',
    'mmdet.core': 'mmdet.structures, .models.task_modules or .evaluation',
    'mmseg.models.builder': 'mmseg.registry',
    'mmdet.models.builder': 'mmdet.registry',
    'mmseg.datasets.builder': 'mmseg.registry',
    'mmdet.datasets.builder': 'mmdet.registry',
}


def find_old_fields(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    """Fields that nothing reads any more; one that a config has beside today's may be a variable of its own."""
    for name, (successors, today) in _FIELDS.items():
        if name not in cfg or any(each in cfg for each in successors):
            continue
        # `seed = 0` may be anybody's variable, and so may what the file names twice; a section is a dict
        is_section = isinstance(cfg[name], dict)
        used = bool(re.search(rf'\b{name}\b(?!\s*=(?!=))', getattr(cfg, 'text', None) or ''))
        if is_section or not used:
            level = 'error' if successors else 'warning'
            yield Finding(level, 'old-config-key', name, f'{name!r} is of mmcv 1.x and is not read: {today}.')


def today_of_argument(registry: str, name: str) -> str | None:
    """What took the place of an old argument of the parts in a registry."""
    return _ARGUMENTS.get(registry, {}).get(name)


def today_of_type(name: str) -> str | None:
    """What took the place of an old class."""
    return _TYPES.get(name.rpartition('.')[2])


def today_of_module(text: str) -> str:
    """The end of an error message in which an old module is named, or nothing."""
    old = next((name for name in _MODULES if re.search(rf'\b{re.escape(name)}\b', text)), None)
    return f'; {old!r} is of mmcv 1.x, today it is {_MODULES[old]}' if old else ''
