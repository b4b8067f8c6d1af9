"""Losses and gradients that are not finite, and what a step leaves behind."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose as MMCVCompose
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn

from densevit.checkpoints.safe import load_torch_file
from densevit.data.broken import Ledger, read_list
from densevit.data.loading import name_unreadable_files
from densevit.data.stream import PlacedDataset
from densevit.engine.guards import BrokenSamplesHook, FiniteLossHook
from densevit.engine.plain import from_plain, to_plain
from densevit.engine.replay import replay
from densevit.engine.runner import build_runner
from densevit.errors import UserError
from tests.scope import scope_restored


@DATASETS.register_module(force=True)
class Numbers:
    """Sample ``bad`` of six is ``value``, the others are 1."""

    def __init__(self, bad, value):
        self.bad, self.value = bad, value

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return dict(inputs=torch.full((2,), float(self.value) if index == self.bad else 1.0))


@MODELS.register_module(force=True)
class Root(BaseModel):
    """The loss is finite for inputs from 0, its gradient for those above 0."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.scale = nn.Linear(2, 2, bias=False)
        nn.init.ones_(self.scale.weight)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        inputs = torch.stack(list(inputs))
        self.norm(torch.cat([inputs, torch.zeros_like(inputs)]))
        return {'loss': self.scale(inputs).sqrt().sum(), 'other': inputs.sum()}


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


def runner_of(work_dir, value, bad=3, **optim_wrapper):
    """Six iterations, one sample each, in order."""
    loader = dict(
        dataset=dict(type='Numbers', bad=bad, value=value), num_workers=0, batch_size=1,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )  # fmt: skip
    wrapper = dict(optimizer=dict(type='SGD', lr=0.01), **optim_wrapper)
    train = dict(train_cfg=dict(by_epoch=False, max_iters=6), train_dataloader=loader, optim_wrapper=wrapper)
    return build_runner(Config(dict(model=dict(type='Root'), work_dir=str(work_dir), **train)))


def stopped(runner, match):
    """Where the run has saved the step that it stopped at."""
    with pytest.raises(UserError, match=match):
        runner.train()
    (file,) = Path(runner.work_dir).glob('nonfinite_*.pth')
    return file


def replayed(file, capsys, status=0):
    """What is said of it."""
    capsys.readouterr()
    assert replay(argparse.Namespace(file=file, device='cpu', checkpoint=None)) == status
    return capsys.readouterr().out


CLIP = dict(clip_grad=dict(max_norm=1e9))


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -1.0])
def test_a_loss_is_stopped_before_it_is_in_the_weights(tmp_path, capsys, value):
    runner = runner_of(tmp_path, value)
    file = stopped(runner, r'^iteration 4: the loss is (nan|inf); the batch and the state before this step are in')
    saved = load_torch_file(file)
    for state in (saved['state_dict'], runner.model.state_dict()):
        assert all(torch.isfinite(each).all() for each in state.values())
        assert state['norm.num_batches_tracked'] == 3
    assert (saved['iteration'], saved['seed']) == (4, runner.seed)
    assert torch.equal(saved['batch']['inputs'][0], torch.full((2,), value)) or value != value
    out = replayed(file, capsys)
    if value == -1.0:
        assert 'the outputs of all modules are finite' in out and 'so it begins in the loss itself' in out
    else:
        assert 'that is not finite is that of norm (BatchNorm1d)' in out


def test_a_gradient_is_stopped_where_it_is_clipped(tmp_path, capsys):
    runner = runner_of(tmp_path, 0.0, **CLIP)
    before = runner.model.scale.weight.detach().clone()
    file = stopped(runner, r'^iteration 4: the norm of the gradient is nan; ')
    assert torch.isfinite(runner.model.scale.weight).all() and not torch.equal(runner.model.scale.weight, before)
    out = replayed(file, capsys)
    assert 'gradient: not finite for 1 parameters: scale.weight' in out
    assert "backward: Function 'MmBackward0' returned nan" in out or "'SqrtBackward0' returned nan" in out


def test_a_gradient_that_nobody_looks_at_shows_in_the_next_loss(tmp_path, capsys):
    file = stopped(runner_of(tmp_path, 0.0), r'^iteration 5: the loss is nan')
    out = replayed(file, capsys)
    assert 'not finite before the step already: scale.weight\n' in out and 'clip_grad=' in out


def test_every_accumulated_batch_is_looked_at(tmp_path):
    stopped(runner_of(tmp_path, float('inf'), bad=1, accumulative_counts=3), r'^iteration 2: the loss is ')


def test_gradients_are_the_loss_scalers_business(tmp_path):
    """It finds its scale by infinite ones, and leaves such a step out."""
    runner = runner_of(tmp_path, 0.0, bad=5, **CLIP)
    build = runner.build_optim_wrapper

    def with_scaler(config):
        wrapper = build(config)
        wrapper.loss_scaler = object()
        return wrapper

    runner.build_optim_wrapper = with_scaler
    runner.train()
    assert not list(tmp_path.glob('nonfinite_*'))


def test_nothing_is_left_in_the_optimizer(tmp_path):
    runner = runner_of(tmp_path, 1.0)
    runner.train()
    assert 'backward' not in vars(runner.optim_wrapper)
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks


def test_torch_hears_of_dead_workers_after_a_step_that_failed(tmp_path):
    before = signal.getsignal(signal.SIGCHLD)
    runner = runner_of(tmp_path, 1.0)
    runner.model.forward = lambda *args, **kwargs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        runner.train()
    assert signal.getsignal(signal.SIGCHLD) is before


def test_a_pipeline_that_a_hook_has_exchanged_is_reached(tmp_path):
    dataset = SimpleNamespace(pipeline=Compose([]))
    name_unreadable_files(dataset, Ledger(0))
    loader = SimpleNamespace(dataset=PlacedDataset(dataset))
    runner = SimpleNamespace(train_dataloader=loader, work_dir=tmp_path, hooks=[])
    hook = BrokenSamplesHook('skip')
    hook.before_train(runner)
    loader.dataset.pipeline = MMCVCompose([lambda data: 1 / 0])  # as mmdet's PipelineSwitchHook does it
    hook.before_train_epoch(runner)
    assert dataset.pipeline(dict(img_path='a.png')) is None
    assert 'ZeroDivisionError' in read_list(tmp_path / 'skipped_samples.jsonl')['a.png']
    assert hook._counts()['broken'] == 1


def test_a_full_disk_does_not_hide_the_loss(tmp_path, monkeypatch):
    from densevit.checkpoints import atomic

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    runner = runner_of(tmp_path, float('nan'), bad=0)
    monkeypatch.setattr(atomic, '_write', full)
    with pytest.raises(UserError, match='iteration 1: the loss is nan; the batch .* not be saved: .*No space left'):
        runner.train()


def test_the_hook_is_there_once(tmp_path):
    runner = runner_of(tmp_path, 1.0)
    assert sum(isinstance(hook, FiniteLossHook) for hook in runner.hooks) == 1


def test_batches_become_plain_and_come_back():
    pytest.importorskip('mmdet')
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks, PolygonMasks
    from mmengine.structures import InstanceData, PixelData

    sample = DetDataSample(metainfo=dict(img_path='/a.png', ori_shape=(4, 6), scale_factor=np.float32(0.5), odd={1, 2}))
    masks = BitmapMasks(np.ones((2, 4, 6), np.uint8), 4, 6)
    sample.gt_instances = InstanceData(bboxes=HorizontalBoxes(torch.rand(2, 4)), labels=torch.arange(2), masks=masks)
    polygons = PolygonMasks([[np.array([0.0, 0, 3, 0, 3, 3])]], 4, 6)
    sample.ignored_instances = InstanceData(masks=polygons, empty=np.zeros((1, 0), np.float32))
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 4, 6, dtype=torch.uint8))
    plain = to_plain(dict(inputs=[torch.zeros(3, 4, 6)], data_samples=[sample]))
    back = from_plain(plain)['data_samples'][0]
    assert type(back) is DetDataSample and back.metainfo == {**sample.metainfo, 'scale_factor': 0.5, 'odd': [1, 2]}
    assert torch.equal(back.gt_instances.bboxes.tensor, sample.gt_instances.bboxes.tensor)
    assert np.array_equal(back.gt_instances.masks.masks, masks.masks)
    assert np.array_equal(back.ignored_instances.masks.masks[0][0], polygons.masks[0][0])
    assert back.ignored_instances.empty.shape == (1, 0)
    assert back.gt_sem_seg.data.dtype == torch.uint8
    with pytest.raises(UserError, match='object object at .* cannot be rebuilt'):
        from_plain(to_plain([object()]))


def test_weights_that_are_not_in_the_file(tmp_path, capsys):
    """As of a run whose processes hold a part each."""
    runner = runner_of(tmp_path, float('nan'))
    file = stopped(runner, 'the loss is nan')
    saved = load_torch_file(file)
    torch.save(saved['state_dict'], tmp_path / 'weights.pth')
    torch.save({**saved, 'state_dict': None, 'optimizer': None}, file)
    with pytest.raises(UserError, match='give --checkpoint'):
        replay(argparse.Namespace(file=file, device='cpu', checkpoint=None))
    assert replay(argparse.Namespace(file=file, device='cpu', checkpoint=str(tmp_path / 'weights.pth'))) == 0
    assert 'the first output that is not finite is that of norm' in capsys.readouterr().out
