"""Faults planted in configs are found and named, each by its kind, its value and its cure; sound configs have none."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from densevit.check.finding import Finding  # noqa: E402
from densevit.check.run import check_run  # noqa: E402
from densevit.check.schedule import warm_up_findings  # noqa: E402
from densevit.config.mistakes import find_mistakes  # noqa: E402
from densevit.config.reading import configs_dir, read_config  # noqa: E402
from tests.scope import scope_restored  # noqa: E402

SEG, DET, BIG = 'upernet_patchconvnet-tiny_camvid', 'mask_rcnn_patchconvnet-tiny_nuclei', 'upernet_swin_ade20k'
COCO = 'mask_rcnn_swin_coco'


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


@functools.cache
def _base(name: str) -> Any:
    return read_config(name)


def planted(name: str, options: dict[str, Any]):
    """A shipped config with some fields changed; a value of ``...`` takes the field out."""
    cfg = copy.deepcopy(_base(name))
    cfg.work_dir = 'work_dirs/planted'
    for key, value in options.items():
        if value is ...:
            *parents, last = key.split('.')
            functools.reduce(lambda part, each: part[int(each) if each.isdecimal() else each], parents, cfg).pop(last)
        else:
            cfg.merge_from_dict({key: value})
    return cfg


def findings(cfg: Any, *, quick: bool = True) -> list[Finding]:
    return check_run(cfg, list(find_mistakes(cfg)), quick=quick, splits=()).findings


def assert_found(found: list[Finding], kind: str, level: str, *words: str) -> None:
    """One finding is of this kind and level, and its place and message have all the words."""
    of_kind = [each for each in found if each.kind == kind and each.level == level]
    assert of_kind, f'no {level} {kind!r} among {[str(each) for each in found]}'
    text = [f'{each.place}: {each.message}' for each in of_kind]
    assert any(all(word in line for word in words) for line in text), f'{words} not in {text}'


# ------------------------------------------------------------------------------------------------- no false alarm
@pytest.mark.parametrize('name', [SEG, DET])
def test_a_sound_config_has_neither_errors_nor_warnings(name):
    found = findings(planted(name, {}), quick=False)
    assert [str(each) for each in found if each.level != 'note'] == []
    assert {'memory', 'disk', 'batch-and-rate', 'random-weights'} <= {each.kind for each in found}


def test_the_shipped_configs_have_no_errors_and_no_other_warnings_than_these():
    files = sorted(configs_dir().glob('*.py'))
    assert len(files) >= 97
    for file in files[::8]:
        for each in findings(read_config(file)):
            # 8 processes are in the recipe
            expected = {'batch-and-rate'}
            # they keep their statistics, so they need weights
            if any(word in file.stem for word in ('cvt', 'resnet', 'efficientnet', 'mobilenet')):
                expected.add('frozen-random-weights')
            assert each.level == 'note' or each.kind in expected, f'{file.name}: {each}'


# ---------------------------------------------------------------------------------------------- keys and types
CONFIG = [
    # USERS B9: backbone that is not in the registry; misspelt and misplaced names
    (SEG, {'model.backbone.type': 'densevit.PatchConvNett'}, 'unknown-type', ('PatchConvNett', "'PatchConvNet'")),
    (SEG, {'model.backbone.type': 'PatchConvNet'}, 'unknown-type', ("'densevit.PatchConvNet'",)),
    (SEG, {'model.backbone.type': 'MyBackbone2000'}, 'unknown-type', ('MyBackbone2000', 'custom_imports')),
    (SEG, {'model.backbone.type': 'nopackage.Net'}, 'package-missing', ("'nopackage'",)),
    (
        BIG,
        {'model.backbone.type': 'SwinTransformer', 'model.backbone.window_size': ...},
        'unknown-argument',
        ("'arch'", "'densevit.SwinTransformer'"),
    ),
    (SEG, {'model.backbone.drop_path': 0.1}, 'unknown-argument', ("'drop_path'", "'drop_path_rate'")),
    (SEG, {'train_dataloader.batchsize': 4}, 'unknown-argument', ("'batchsize'", "'batch_size'")),
    (SEG, {'optim_wraper': dict(type='OptimWrapper')}, 'unknown-field', ("'optim_wraper'", "'optim_wrapper'")),
    (SEG, {'default_scope': 'mmsegg'}, 'package-missing', ("'mmsegg'",)),
    (SEG, {'optim_wrapper.optimizer.lr': '6e-5'}, 'wrong-type', ("'6e-5'", 'a number')),
    (SEG, {'train_cfg.max_iters': '6000'}, 'wrong-type', ("'6000'", 'a whole number')),
    (SEG, {'model.decode_head.align_corners': 'False'}, 'wrong-type', ("'False'", 'True or False')),
    (SEG, {'train_dataloader.batch_size': 0}, 'not-a-count', ('0', 'at least 1')),
    (SEG, {'optim_wrapper.optimizer.lr': 0.0}, 'learning-rate', ('0.0', 'above 0')),
    # USERS A2: names of mmcv 1.x
    (SEG, {'optim_wrapper': ..., 'optimizer': dict(type='AdamW')}, 'old-config-key', ("'optimizer'", 'optim_wrapper')),
    (SEG, {'train_cfg': ..., 'runner': dict(type='IterBasedRunner')}, 'old-config-key', ("'runner'", 'train_cfg')),
    (
        SEG,
        {
            **{f'{split}_dataloader': ... for split in ('train', 'val', 'test')},
            'data': dict(samples_per_gpu=2, train=dict(type='CustomDataset')),
        },
        'old-config-key',
        ("'data'", 'train_dataloader'),
    ),
    (SEG, {'train_dataloader.samples_per_gpu': 2}, 'old-config-key', ("'samples_per_gpu'", 'batch_size')),
    (SEG, {'train_dataloader.dataset.img_dir': 'images'}, 'old-config-key', ("'img_dir'", 'img_path=')),
    (SEG, {'train_dataloader.dataset.pipeline.2.img_scale': (9, 9)}, 'old-config-key', ("'img_scale'", 'scale')),
    (SEG, {'train_dataloader.dataset.pipeline.6.type': 'Collect'}, 'old-config-key', ("'Collect'", 'PackSegInputs')),
    (SEG, {'train_dataloader.dataset.metainfo.CLASSES': ('a',)}, 'old-config-key', ("'CLASSES'", 'metainfo')),
    (SEG, {'val_evaluator': ...}, 'incomplete-loop', ('val_evaluator', 'val_dataloader')),
    (SEG, {key: ... for key in ('train_cfg', 'train_dataloader', 'optim_wrapper')}, 'incomplete-loop', ('nothing',)),
    (SEG, {'model': [1]}, 'wrong-type', ('[1]', 'give a dict')),
]  # fmt: skip


@pytest.mark.parametrize(('name', 'options', 'kind', 'words'), CONFIG, ids=lambda value: str(value)[:40])
def test_keys_and_types(name, options, kind, words):
    assert_found(findings(planted(name, options)), kind, 'error', *words)


# ------------------------------------------------------------------------------------------- model and classes
FIVE = ('a', 'b', 'c', 'd', 'e')
MODEL = [
    # channels between backbone, neck and heads
    (SEG, {'model.decode_head.in_channels': [96] * 4}, 'channel-mismatch', ('model.decode_head', '[96, 96, 96, 96]')),
    (BIG, {'model.auxiliary_head.in_channels': 512}, 'channel-mismatch', ('auxiliary_head', '512', '[384]')),
    (BIG, {'model.auxiliary_head.in_index': 4}, 'channel-mismatch', ('in_index=4', '4 maps', '0 to 3')),
    (COCO, {'model.neck.in_channels': [1, 2, 3, 4]}, 'channel-mismatch', ('model.neck', '[1, 2, 3, 4]', '768')),
    (DET, {'model.rpn_head.in_channels': 100}, 'channel-mismatch', ('model.rpn_head', '100', 'write')),
    (DET, {'model.roi_head.bbox_head.in_channels': 100}, 'channel-mismatch', ('roi_head.bbox_head', '100')),
    (COCO, {'model.neck.num_outs': 4}, 'level-mismatch', ('model.rpn_head', '5 levels', '4 maps', 'num_outs')),
    (SEG, {'model.backbone.arch': 'S600'}, 'model-not-built', ('S600', 'S60')),
    # USERS B6: num_classes and reduce_zero_label
    (SEG, {'model.decode_head.num_classes': 12}, 'class-count', ('11 classes', 'num_classes=12', 'num_classes=11')),
    (BIG, {'model.auxiliary_head.num_classes': 19}, 'class-count', ('auxiliary_head.num_classes=19', '150')),
    (BIG, {'train_dataloader.dataset.reduce_zero_label': False}, 'reduce-zero-label', ('train_dataloader', 'True')),
    (
        BIG,
        {'val_dataloader.dataset.pipeline.2.reduce_zero_label': False},
        'reduce-zero-label',
        ('val_dataloader.dataset.pipeline[2]', 'False', 'same'),
    ),
    (SEG, {'model.data_preprocessor.seg_pad_val': 0}, 'void-label', ('seg_pad_val', 'label 0', 'write 255')),
    (SEG, {'model.decode_head.ignore_index': 0}, 'void-label', ('ignores 0',)),
    (SEG, {'val_evaluator.ignore_index': 11}, 'void-label', ('val_evaluator', '11', '255')),
    (SEG, {'model.decode_head.num_classes': 1}, 'one-class-softmax', ('num_classes=1', 'use_sigmoid=True')),
    # USERS B7: names, and counts in heads
    (DET, {'train_dataloader.dataset.metainfo.classes': 'tower'}, 'classes-not-a-list', ("'tower'", "('tower',)")),
    (DET, {'model.roi_head.bbox_head.num_classes': 80}, 'class-count', ('bbox_head.num_classes=80', '1 class')),
    (DET, {'model.roi_head.mask_head.num_classes': 2}, 'class-count', ('mask_head.num_classes=2', 'num_classes=1')),
    (
        SEG,
        {
            'model.decode_head.num_classes': 5,
            'model.decode_head.loss_decode.class_weight': [1.0] * 5,
            'train_dataloader.dataset.metainfo': dict(classes=FIVE),
            'val_dataloader.dataset.metainfo': dict(classes=('a', 'c', 'b', 'd', 'e')),
        },
        'class-order',
        ('val_dataloader', 'number 1', 'a, c, b'),
    ),
    (SEG, {'val_dataloader.dataset.metainfo.classes': FIVE}, 'class-count', ('5 classes', '11', 'val_dataloader')),
    (SEG, {'train_dataloader.dataset.metainfo.classes': ('Sky', 'Sky')}, 'class-named-twice', ('Sky',)),
    (SEG, {'model.decode_head.loss_decode.class_weight': [1.0] * 3}, 'class-weight', ('3 numbers', '11 classes')),
    # USERS B12: sizes
    (SEG, {'model.data_preprocessor.size': ...}, 'preprocessor-size', ('neither', 'size=(height, width)')),
    (SEG, {'model.test_cfg.stride': (300, 300)}, 'slide-window', ('(300, 300)', '(256, 256)')),
    (SEG, {'model.test_cfg.crop_size': ...}, 'slide-window', ('crop_size and stride',)),
    (SEG, {'model.data_preprocessor.std': [58.0, 0.0, 57.0]}, 'normalization', ('0.0', 'divides by 0')),
    # what is learnt and scored
    (DET, {'train_dataloader.dataset.pipeline.1.with_mask': False}, 'masks-not-loaded', ('with_mask=True',)),
    (DET, {'model.roi_head.mask_head': ..., 'model.roi_head.mask_roi_extractor': ..., 'model.type': 'FasterRCNN'},
     'evaluator-needs-masks', ("'segm'", "metric='bbox'")),
    (SEG, {'train_dataloader.dataset.pipeline.1': dict(type='RandomFlip', prob=0.5, _delete_=True)},
     'annotations-not-loaded', ('LoadAnnotations',)),
]  # fmt: skip


@pytest.mark.parametrize(('name', 'options', 'kind', 'words'), MODEL, ids=lambda value: str(value)[:40])
def test_model_and_classes(name, options, kind, words):
    assert_found(findings(planted(name, options)), kind, 'error', *words)


STRIDES = {'model.roi_head.bbox_roi_extractor.featmap_strides': [8, 16, 32, 64]}
PASSES = [
    (DET, STRIDES, 'stride-mismatch', ('[8, 16, 32, 64]', '[4, 8, 16, 32]', 'bbox_roi_extractor')),
    (DET, {'model.roi_head.bbox_head.roi_feat_size': 5}, 'forward-fails', ('model.roi_head.bbox_head',)),
    (SEG, {'train_dataloader.batch_size': 1}, 'batch-norm-of-one-image', ('batch_size=1', 'batch_size=2', 'GN')),
]


@pytest.mark.parametrize(('name', 'options', 'kind', 'words'), PASSES, ids=lambda value: str(value)[:40])
def test_a_pass_through_the_model(name, options, kind, words):
    assert_found(findings(planted(name, options), quick=False), kind, 'error', *words)


# ------------------------------------------------------------------------------------------------------- recipe
RECIPE = [
    # USERS B10: batch and learning rate
    (SEG, {'train_dataloader.batch_size': 2}, 'warning', 'batch-and-rate', ('batch: 2', '--accumulate 4', 'is 8')),
    (SEG, {'optim_wrapper.accumulative_counts': 3}, 'warning', 'batch-and-rate', ('batch: 24', '--auto-scale-lr')),
    (SEG, {'optim_wrapper.optimizer.lr': 0.1}, 'warning', 'learning-rate', ('0.1', 'AdamW', '0.02')),
    (SEG, {'auto_scale_lr.enable': True}, 'warning', 'auto-scale-lr', ('enable=True', '--auto-scale-lr')),
    # schedule
    (BIG, {'train_cfg.max_iters': 1000}, 'warning', 'warm-up-too-long', ('1500', '1000', 'max_iters')),
    (BIG, {'train_cfg.max_iters': 80000}, 'warning', 'schedule-length', ('160000', 'end=80000')),
    (SEG, {'train_cfg.max_iters': 9000}, 'warning', 'schedule-length', ('total_steps=6000', 'total_steps=9000')),
    (SEG, {'train_cfg.val_interval': 7000}, 'warning', 'never-validated', ('7000', '6000 or less')),
    (BIG, {'param_scheduler.1.by_epoch': ...}, 'error', 'scheduler-by-epoch', ('PolyLR', 'by_epoch=False')),
    (BIG, {'optim_wrapper.paramwise_cfg.custom_keys': {'decode_haed': dict(lr_mult=10.0)}},
     'warning', 'custom-key-unused', ("'decode_haed'", "'decode_head'")),
    (BIG, {'optim_wrapper.paramwise_cfg.custom_keys': {'absolute_pos_embed': dict(decay_mult=0.0)}},
     'note', 'custom-key-unused', ("'absolute_pos_embed'",)),
    (COCO, {'train_cfg.max_epochs': 12}, 'warning', 'milestone-never', ('[27, 33]', '12 epochs')),
    (BIG, {'param_scheduler': [dict(type='CosineAnnealingLR', T_max=40000, by_epoch=False)]},
     'warning', 'schedule-length', ('T_max=40000', 'T_max=160000', 'rises again')),
    (DET, {'train_dataloader.sampler.type': 'InfiniteSampler'}, 'error', 'endless-epoch', ('DefaultSampler',)),
    # what is saved
    (SEG, {'default_hooks.checkpoint.by_epoch': True}, 'warning', 'checkpoint-by-epoch', ('1500', 'by_epoch=False')),
    (SEG, {'default_hooks.checkpoint.interval': 7000, 'default_hooks.checkpoint.save_last': False},
     'warning', 'checkpoint-never', ('7000', '6000 or less')),
    (SEG, {'default_hooks.checkpoint.save_best': 'miou'}, 'error', 'save-best', ("'miou'", 'mIoU')),
    (DET, {'val_evaluator.metric': ['bbox']}, 'error', 'save-best', ("'coco/segm_mAP'", 'coco/bbox_mAP')),
    # images
    (SEG, {'model.data_preprocessor.mean': [0.485, 0.456, 0.406], 'model.data_preprocessor.std': [0.2, 0.2, 0.2]},
     'warning', 'normalization', ('0.485', 'multiply both by 255')),
    (SEG, {'model.data_preprocessor.bgr_to_rgb': False}, 'warning', 'channel-order', ('123.675', 'bgr_to_rgb=True')),
    # USERS B13: random numbers
    (SEG, {'randomness': dict(deterministic=True, _delete_=True)}, 'warning', 'seed', ('without a seed', 'seed=0')),
    (SEG, {'randomness.seed': 0.5}, 'error', 'seed', ('0.5', 'a whole number')),
    (SEG, {'randomness.sed': 1}, 'error', 'unknown-argument', ("'sed'", "'seed'")),
    (SEG, {'seed': 0, 'deterministic': True}, 'warning', 'old-config-key', ("'seed'", 'randomness=dict(seed')),
]  # fmt: skip


@pytest.mark.parametrize(('name', 'options', 'level', 'kind', 'words'), RECIPE, ids=lambda value: str(value)[:40])
def test_recipe(name, options, level, kind, words):
    assert_found(findings(planted(name, options)), kind, level, *words)


def test_a_warm_up_in_iterations_that_the_epochs_do_not_have():
    cfg = planted(COCO, {'train_cfg.max_epochs': 3})  # the warm-up takes 500 iterations of 2 images
    assert list(warm_up_findings(cfg, 333)) == []
    found = list(warm_up_findings(cfg, 332))
    assert_found(found, 'warm-up-too-long', 'warning', 'param_scheduler[0]', '500', '498', '3 epochs of 166')


@pytest.mark.skipif(torch.cuda.is_available(), reason='SyncBN works there')
def test_sync_bn_without_a_gpu():
    cfg = planted(SEG, {'model.decode_head.norm_cfg.type': 'SyncBN'})
    assert_found(findings(cfg), 'sync-bn-on-cpu', 'error', 'SyncBN', "type='BN'")


def test_all_faults_of_a_config_are_found_at_once():
    options = {
        'model.decode_head.in_channels': [1, 2, 3, 4],
        'model.decode_head.num_classes': 5,
        'train_dataloader.sampler.shufle': True,
        'optim_wrapper.optimizer.lr': 1.0,
        'train_cfg.val_interval': 10**6,
    }
    kinds = {each.kind for each in findings(planted(SEG, options)) if each.level != 'note'}
    expected = {'channel-mismatch', 'class-count', 'unknown-argument', 'learning-rate', 'never-validated'}
    assert expected <= kinds


def test_a_check_that_fails_takes_nothing_from_the_others(monkeypatch):
    from densevit.check import run

    monkeypatch.setattr(run, 'class_findings', lambda *args: 1 / 0)
    found = findings(planted(SEG, {'train_cfg.val_interval': 10**6}))
    assert {'check-failed', 'never-validated', 'disk'} <= {each.kind for each in found}


def test_files_are_not_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    findings(planted(SEG, {}), quick=False)
    assert list(Path(tmp_path).iterdir()) == []
    assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------------------- what mm's messages leave to be guessed
def test_an_evaluation_that_would_never_end():
    found = findings(planted(SEG, {'val_dataloader.sampler.type': 'InfiniteSampler'}))
    assert_found(found, 'endless-epoch', 'error', 'val_dataloader.sampler', 'DefaultSampler')


def test_a_module_whose_failed_import_was_allowed():
    imports = dict(imports=['no_such_package.models'], allow_failed_imports=True)
    found = findings(planted(SEG, {'custom_imports': imports}))
    assert_found(found, 'import-failed', 'error', 'no_such_package.models', 'PYTHONPATH')


def test_a_config_without_scope_is_told_whose_the_part_is():
    found = findings(planted(SEG, {'default_scope': None, 'model.decode_head.type': 'PSPHead'}))
    assert_found(found, 'unknown-type', 'error', 'PSPHead', "set default_scope='mmseg'")
