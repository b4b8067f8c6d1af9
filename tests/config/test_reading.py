"""Mistakes in a config are found before anything is built, and sound configs of mmseg and mmdet pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from densevit.config.reading import configs_dir, find_config, load_config
from densevit.errors import UserError

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

SEGMENTOR = """
default_scope = 'mmseg'
data_root = '{{$DENSEVIT_TEST_ROOT:data/toy}}'
crop = (64, 96)
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='densevit.PatchConvNet', arch='S60', out_indices=(59,)),
    decode_head=dict(type='FCNHead', in_channels=384, channels=16, num_classes=3, norm_cfg=norm_cfg),
)
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='RandomCrop', crop_size=crop)]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='BaseSegDataset', data_root=data_root, pipeline=train_pipeline),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3), paramwise_cfg=dict(a=1))
param_scheduler = [dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=10)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=10)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=5))
val_evaluator = dict(type='densevit.IoUMetric')
"""


@pytest.fixture
def segmentor(tmp_path: Path) -> Path:
    file = tmp_path / 'segmentor.py'
    file.write_text(SEGMENTOR)
    return file


def altered(file: Path, old: str, new: str) -> Path:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return file


# ------------------------------------------------------------------------------------ finding, running
def test_shipped_configs_are_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = sorted(configs_dir().glob('*.py'))
    assert len(shipped) >= 2
    for file in shipped:
        for name in (file.stem, file.name, f'configs/{file.name}', str(file)):
            assert find_config(name) == file


def test_config_not_found(tmp_path):
    wrong = sorted(configs_dir().glob('*.py'))[0].stem + 'x'
    with pytest.raises(UserError, match=f'{wrong}.*did you mean .*{wrong[:-1]}'):
        load_config(wrong)
    with pytest.raises(UserError, match='no/such/place.py'):
        load_config('no/such/place.py')
    with pytest.raises(UserError, match=f'{tmp_path}.* is a folder'):
        load_config(tmp_path)


def test_python_error_names_file_and_line(segmentor):
    altered(segmentor, 'crop = (64, 96)', 'crop = (64, 96')
    with pytest.raises(UserError, match=r"segmentor.py', line 4"):
        load_config(segmentor)
    altered(segmentor, 'crop = (64, 96', 'crop = undefined')
    with pytest.raises(UserError, match=r"segmentor.py', line 4: NameError: .*undefined"):
        load_config(segmentor)


def test_error_in_a_base_names_the_base(segmentor):
    child = segmentor.with_name('child.py')
    child.write_text("_base_ = './segmentor.py'\n")
    altered(segmentor, 'norm_cfg = dict(', 'norm_cfg = dict((')
    with pytest.raises(UserError, match=r"segmentor.py', line 5"):
        load_config(child)
    child.write_text("_base_ = './absent.py'\n")
    with pytest.raises(UserError, match='child.py.*_base_.*absent.py'):
        load_config(child)


def test_missing_custom_import_is_named(segmentor):
    altered(segmentor, "default_scope = 'mmseg'", "custom_imports = dict(imports=['no_such_module'])")
    with pytest.raises(UserError, match='no_such_module'):
        load_config(segmentor)


# ---------------------------------------------------------------------------------------------- fields
def test_sound_config_loads_and_takes_overrides(segmentor):
    cfg = load_config(segmentor, {'train_dataloader.batch_size': 4, 'resume': True, 'randomness.seed': 1})
    assert cfg.train_dataloader.batch_size == 4 and cfg.resume is True and cfg.randomness.seed == 1
    assert Path(cfg.filename) == segmentor


@pytest.mark.parametrize(
    ('key', 'match'),
    [
        ('train_dataloder.batch_size', "train_dataloder.*did you mean 'train_dataloader'"),
        ('crob', "'crob'.*did you mean 'crop'"),
        ('train_dataloader.batchsize', "train_dataloader: .*'batchsize'; did you mean 'batch_size'"),
        ('train_cfg.max_iter', "train_cfg: .*'max_iter'; did you mean 'max_iters'"),
        ('randomness.sed', "randomness: .*'sed'; did you mean 'seed'"),
        ('model.backbone.ach', "model.backbone: densevit.PatchConvNet .*'ach'; did you mean 'arch'"),
        ('model.backbone.arch.depth.x', 'model.backbone.arch.depth.x=1 does not fit'),
        ('train_pipeline.7.x', 'train_pipeline.7.x=1 does not fit'),
        ('optim_wrapper.optimizer.weight_dacay', "AdamW .*'weight_dacay'; did you mean 'weight_decay'"),
    ],
)
def test_override_of_an_unknown_key(segmentor, key, match):
    with pytest.raises(UserError, match=match):
        load_config(segmentor, {key: 1})


def test_data_root_reaches_the_datasets(segmentor, monkeypatch):
    assert load_config(segmentor).train_dataloader.dataset.data_root == 'data/toy'
    monkeypatch.setenv('DENSEVIT_TEST_ROOT', '/from/variable')
    assert load_config(segmentor).train_dataloader.dataset.data_root == '/from/variable'
    segmentor.write_text(SEGMENTOR + "val_evaluator = dict(type='mmdet.CocoMetric', ann_file=data_root + '/a.json')")
    cfg = load_config(segmentor, {'data_root': '/by/option'})
    assert cfg.train_dataloader.dataset.data_root == cfg.data_root == '/by/option'
    assert cfg.val_evaluator.ann_file == '/by/option/a.json'
    assert cfg.train_pipeline[1].crop_size == (64, 96)


def test_data_root_that_would_move_nothing(segmentor):
    altered(segmentor, 'data_root=data_root, pip', "data_root='elsewhere', pip")
    segmentor.write_text(segmentor.read_text() + 'variable = dict(data_root=data_root)\n')
    with pytest.raises(UserError, match="data_root=/new: no path .* 'data/toy'.*train_dataloader.dataset.data_root"):
        load_config(segmentor, {'data_root': '/new'})
    load_config(segmentor, {'data_root': 'data/toy'})
    altered(segmentor, "'{{$DENSEVIT_TEST_ROOT:data/toy}}'", 'None')
    with pytest.raises(UserError, match='data_root None'):
        load_config(segmentor, {'data_root': '/new'})


def test_misspelt_field(segmentor):
    altered(segmentor, 'optim_wrapper = dict', 'optim_wraper = dict')
    with pytest.raises(UserError, match="'optim_wraper'; did you mean 'optim_wrapper'"):
        load_config(segmentor)


def test_a_variable_that_is_used_may_have_any_name(segmentor):
    text = segmentor.read_text().replace('train_dataloader = dict', 'train_dataloaders = dict')
    segmentor.write_text(text + 'train_dataloader = train_dataloaders\n')
    load_config(segmentor)


# ------------------------------------------------------------------------------------ types, arguments
@pytest.mark.parametrize(
    ('old', 'new', 'match'),
    [
        (
            'densevit.PatchConvNet',
            'densevit.PatchConvNett',
            "model.backbone: .*'PatchConvNett'; did you mean 'Patch",
        ),
        ('densevit.PatchConvNet', 'absentpackage.Net', "model.backbone: .*package 'absentpackage'"),
        ('FCNHead', 'FCNHeat', "model.decode_head: no model is called 'FCNHeat'; did you mean 'FCNHead'"),
        ('FCNHead', 'Qqqqzz', "model.decode_head: .*'Qqqqzz'.*custom_imports"),
        (
            'RandomCrop',
            'RandomCorp',
            r"dataset.pipeline\[1\]: no transform .*'RandomCorp'; did you mean 'RandomCrop'",
        ),
        ('crop_size', 'cropsize', r"pipeline\[1\]: RandomCrop .*'cropsize'; did you mean 'crop_size'"),
        ('AdamW', 'AdmW', "optim_wrapper.optimizer: no optimizer .*'AdmW'"),
        ('InfiniteSampler', 'InfinitSampler', "sampler: .*'InfinitSampler'; did you mean 'InfiniteSampler'"),
        ('CheckpointHook', 'CheckpointHok', "default_hooks.checkpoint: .*'CheckpointHok'"),
        ('interval=5', 'intervall=5', "CheckpointHook .*'intervall'; did you mean 'interval'"),
        ('IoUMetric', 'IouMetric', "val_evaluator: .*'IouMetric'; did you mean 'IoUMetric'"),
        ('LinearLR', 'LinarLR', r"param_scheduler\[0\]: .*'LinarLR'; did you mean 'LinearLR'"),
        ('channels=16', 'chanels=16', "FCNHead .*'chanels'; did you mean 'channels'"),  # through **kwargs
        ("scope = 'mmseg'", "scope = 'mmsegg'", "default_scope: .*'mmsegg'"),
    ],
)
def test_unknown_type_or_argument(segmentor, old, new, match):
    with pytest.raises(UserError, match=match):
        load_config(altered(segmentor, old, new))


@pytest.mark.parametrize(
    ('package', 'names'),
    [
        (
            'mmseg',
            [
                'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
                'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
                'mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py',
            ],
        ),
        (
            'mmdet',
            [
                'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
                'retinanet/retinanet_r50_fpn_1x_coco.py',
                'detr/detr_r50_8xb2-150e_coco.py',
                'htc/htc_r50_fpn_1x_coco.py',
                'fpg/mask-rcnn_r50_fpg_crop640-50e_coco.py',
                'albu_example/mask-rcnn_r50_fpn_albu-1x_coco.py',
                'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
                'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
            ],
        ),
    ],
)
def test_no_false_alarm_on_configs_of_mmseg_and_mmdet(package, names):
    folder = Path(pytest.importorskip(package).__file__).parent / '.mim' / 'configs'
    if not folder.is_dir():
        pytest.skip(f'this {package} came without its configs')
    for name in names:
        load_config(folder / name)
