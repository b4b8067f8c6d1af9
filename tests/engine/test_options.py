"""What the command line changes in a config."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from densevit.check.batch import batch_line, check_batch, effective_batch
from densevit.config.mistakes import check_config
from densevit.config.reading import load_config, read_config
from densevit.engine.options import RunOptions, apply_options
from densevit.errors import UserError
from tests.checkpoints.hostile import hostile
from tests.checkpoints.server import running

ADE, COCO = 'upernet_patchconvnet_ade20k', 'mask_rcnn_patchconvnet_coco'


def applied(config=ADE, **options) -> Config:
    return apply_options(load_config(config), RunOptions(**options))


def test_defaults_change_nothing_that_is_trained(monkeypatch):
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    before, after = load_config(ADE), applied()
    for key in ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader', 'default_hooks'):
        assert after[key] == before[key], key
    assert after.work_dir == f'work_dirs/{ADE}'
    assert applied(work_dir='elsewhere').work_dir == 'elsewhere'


@pytest.mark.parametrize('config', [ADE, COCO])
def test_all_options_give_a_valid_config(config):
    cfg = applied(config, amp=True, accumulate=2, ema=0.001, auto_scale_lr=True, tensorboard=True, seed=3)
    check_config(cfg)
    assert cfg.optim_wrapper.type == 'densevit.BF16OptimWrapper'
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook']
    assert cfg.visualizer.vis_backends[-1]['type'] == 'TensorboardVisBackend'
    assert cfg.randomness['seed'] == 3


def test_accumulate_stretches_what_counts_iterations():
    cfg = applied(accumulate=8)
    assert cfg.optim_wrapper.accumulative_counts == 8
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (8 * 160000, 8 * 16000)
    assert [scheduler.end for scheduler in cfg.param_scheduler] == [8 * 1500, 8 * 160000]
    assert cfg.param_scheduler[1].begin == 8 * 1500
    assert cfg.default_hooks.checkpoint.interval == 8 * 16000

    cfg = applied(COCO, accumulate=8)
    assert (cfg.train_cfg.max_epochs, cfg.default_hooks.checkpoint.interval) == (36, 1)
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.end, steps.end, steps.milestones) == (8 * 500, 36, [27, 33])


def test_accumulate_stretches_milestones():
    cfg = load_config(ADE)
    cfg.param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[10, 20])]
    apply_options(cfg, RunOptions(accumulate=3))
    assert cfg.param_scheduler[0].milestones == [30, 60]


def test_auto_scale_lr_scales_all_rates():
    cfg = load_config('upernet_patchconvnet-tiny_camvid')
    cfg.auto_scale_lr = dict(enable=True, base_batch_size=32)
    apply_options(cfg, RunOptions(auto_scale_lr=True))
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(3e-3 * 8 / 32)
    assert cfg.param_scheduler[0].eta_max == pytest.approx(3e-3 * 8 / 32)
    assert cfg.auto_scale_lr.enable is False  # mmengine would scale again


@pytest.mark.parametrize('launcher, variable', [('pytorch', 'WORLD_SIZE'), ('slurm', 'SLURM_NTASKS')])
def test_effective_batch_and_its_line(monkeypatch, launcher, variable):
    for name in ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    cfg = applied(accumulate=2)
    assert effective_batch(cfg) == 4
    # 8 times 2 images; the option takes the place of the 2 that it is now
    assert batch_line(cfg, False).endswith('use --accumulate 8, or --auto-scale-lr.')
    assert batch_line(cfg, True).endswith('the rate is scaled to it.')
    cfg.launcher = launcher
    monkeypatch.setenv(variable, '4')
    assert effective_batch(cfg) == 16
    assert batch_line(cfg, False) == "batch: 16 images per update at learning rate 6e-05; the recipe's batch is 16."


@pytest.mark.parametrize(
    'options, named',
    [
        (dict(accumulate=0), '--accumulate 0'),
        (dict(ema=1.5), '--ema 1.5'),
        (dict(load_from='absent.pth'), "'absent.pth'"),
        (dict(resume='absent.pth'), "'absent.pth'"),
        (dict(new_classes=True), '--load-from'),
        (dict(launcher='pytorch'), 'torchrun'),
        (dict(launcher='slurm'), 'srun'),
    ],
)
def test_mistakes(monkeypatch, options, named):
    for name in ('LOCAL_RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=named):
        applied(**options)


def test_auto_scale_lr_needs_the_recipes_batch():
    cfg = load_config('upernet_patchconvnet-tiny_camvid')
    cfg.pop('auto_scale_lr', None)
    with pytest.raises(UserError, match='base_batch_size'):
        apply_options(cfg, RunOptions(auto_scale_lr=True))


def test_amp_refuses_a_wrapper_of_its_own_kind():
    cfg = load_config(ADE)
    cfg.optim_wrapper.type = 'ApexOptimWrapper'
    with pytest.raises(UserError, match='ApexOptimWrapper'):
        apply_options(cfg, RunOptions(amp=True))


def test_processes_on_cpu_and_gpu(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    cfg = applied(launcher='pytorch')
    assert cfg.env_cfg.dist_cfg.backend == 'gloo' and cfg.model_wrapper_cfg.device_ids is None
    assert 'sync_bn' not in cfg
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    cfg = applied(launcher='pytorch')
    assert cfg.env_cfg.dist_cfg.backend == 'nccl' and cfg.sync_bn == 'torch'
    assert 'model_wrapper_cfg' not in cfg


def test_resume(tmp_path):
    own, other = tmp_path / 'iter_2.pth', tmp_path / 'other.pth'
    other.touch()
    run = dict(work_dir=str(tmp_path))
    # nothing there: a new start, from the weights that were named
    cfg = applied(resume=True, load_from=str(other), **run)
    assert (cfg.resume, cfg.load_from) == (False, str(other))
    torch.save({'state_dict': {'a': torch.zeros(1)}}, own)
    (tmp_path / 'last_checkpoint').write_text('/before/it/was/moved/iter_2.pth')
    cfg = applied(resume=True, load_from=str(other), **run)
    assert (cfg.resume, cfg.load_from) == (True, str(own))
    cfg = applied(resume=str(other), **run)
    assert (cfg.resume, cfg.load_from) == (True, str(other))


def test_resume_falls_back_to_the_newest_that_can_be_read(tmp_path):
    run = dict(work_dir=str(tmp_path), resume=True)
    note = tmp_path / 'last_checkpoint'
    note.write_text(str(tmp_path / 'iter_12.pth'))  # which was never written
    with pytest.raises(UserError, match='no checkpoint of the run'):
        applied(**run)
    for name in ('iter_2.pth', 'iter_10.pth', 'best_mIoU_iter_11.pth'):
        torch.save({'state_dict': {'a': torch.zeros(1)}}, tmp_path / name)
    (tmp_path / 'iter_11.pth').write_bytes((tmp_path / 'iter_10.pth').read_bytes()[:100])
    assert applied(**run).load_from == str(tmp_path / 'iter_10.pth')
    note.unlink()
    assert applied(**run).load_from == str(tmp_path / 'iter_10.pth')
    for name in ('iter_2.pth', 'iter_10.pth'):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match='no checkpoint of the run'):
        applied(**run)


def test_resume_does_not_pass_over_a_file_that_is_refused(tmp_path):
    torch.save({'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'iter_2.pth')
    mark = hostile(tmp_path / 'iter_10.pth', {'state_dict': {'a': torch.zeros(1)}})
    with pytest.raises(UserError, match=r'iter_10.*--trust-checkpoint'):
        applied(work_dir=str(tmp_path), resume=True)
    assert not mark.exists()


def test_a_url_is_fetched_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv('DENSEVIT_CACHE', str(tmp_path))
    monkeypatch.setenv('no_proxy', '*')
    with running() as server:
        url, file = server.serve('w.pth', b'content')
        assert applied(load_from=url).load_from == url and len(file.requests) == 1
        assert applied(resume=url).load_from == url and len(file.requests) == 1
        with pytest.raises(UserError, match='answers 404'):
            applied(load_from=f'{url}x')


@pytest.mark.parametrize(
    'key, value',
    [
        ('train_cfg.max_iters', 'abc'),
        ('train_dataloader.batch_size', 'x'),
        ('train_dataloader.batch_size', 0),
        ('val_dataloader.batch_size', 1.5),
        ('optim_wrapper.optimizer.lr', 'fast'),
    ],
)
def test_numbers_that_are_none(key, value):
    cfg = read_config(ADE, {key: value})
    with pytest.raises(UserError, match=f'{key}: {value!r}'):
        apply_options(cfg, RunOptions(accumulate=2, auto_scale_lr=True))


def test_amp_without_a_type_of_wrapper():
    cfg = load_config(ADE)
    del cfg.optim_wrapper['type']
    assert apply_options(cfg, RunOptions(amp=True)).optim_wrapper.type == 'densevit.BF16OptimWrapper'


def test_pyramid_pooling_of_one_image_has_nothing_to_normalize_over(monkeypatch):
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    cfg = load_config(ADE, {'train_dataloader.batch_size': 1})
    with pytest.raises(UserError, match=r'batch_size=1: UPerHead .*--accumulate'):
        check_batch(cfg)
    check_batch(load_config(ADE))
    check_batch(load_config(COCO, {'train_dataloader.batch_size': 1}))
    check_batch(load_config(ADE, {'train_dataloader.batch_size': 1, 'model.decode_head.pool_scales': [2, 4]}))
    check_batch(load_config(ADE, {'train_dataloader.batch_size': 1, 'model.decode_head.norm_cfg.type': 'GN'}))
    cfg.launcher, cfg.sync_bn = 'pytorch', 'torch'
    monkeypatch.setenv('WORLD_SIZE', '2')
    check_batch(cfg)
    cfg.sync_bn = None
    with pytest.raises(UserError, match='batch_size=1'):
        check_batch(cfg)
