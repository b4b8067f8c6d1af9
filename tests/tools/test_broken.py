"""Runs of both tasks on scenes in which something is wrong, and the replay of a step."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from PIL import Image
from torch.utils.data import get_worker_info

from densevit.checkpoints import read_checkpoint
from densevit.checkpoints.safe import load_torch_file
from densevit.data.broken import read_list

from .conftest import DETECT, SEGMENT, training

FIRST, SECOND, THIRD = 'scene_00002', 'scene_00005', 'scene_00006'


@TRANSFORMS.register_module(force=True)
class PlantedFault(BaseTransform):
    """Does something wrong with one image, or with all."""

    def __init__(self, what, name=''):
        self.what, self.name = what, name

    def transform(self, results):
        if self.name in results['img_path']:
            if self.what == 'raise':
                raise KeyError('planted')
            if self.what == 'drop':
                return None
            if self.what == 'kill' and get_worker_info() is not None:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.what == 'class':
                results['gt_bboxes_labels'] = results['gt_bboxes_labels'] + 7
            if self.what == 'inf':
                results['img'] = results['img'].astype(np.float32)
                results['img'][3, 5, 1] = np.inf
        return results


CONFIG = """
_base_ = '{configs}/{config}.py'
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            {load},
            dict(type='RandomFlip', prob=0.5),
            dict(type='PlantedFault', what={what!r}, name={name!r}),
            dict(type={pack!r}),
        ]
    ),
)
"""
SHORT = {
    SEGMENT: ('model.decode_head.channels=8', 'train_cfg.max_iters=3', 'default_hooks.checkpoint.interval=100'),
    DETECT: ('train_cfg.max_epochs=1', 'default_hooks.checkpoint.interval=100'),
}


@pytest.fixture(autouse=True)
def _no_layout(monkeypatch):
    """mmengine lays out the config as text, which takes up to a second of each run."""
    monkeypatch.setattr(Config, 'pretty_text', '')


@pytest.fixture
def root(scenes, tmp_path) -> Path:
    """Scenes of this test's own."""
    return Path(shutil.copytree(scenes, tmp_path / 'scenes'))


@pytest.fixture
def run(tool, root, tmp_path):
    """``run('train', DETECT, 'drop', 'name', *options, flags=())``; the files go to ``tmp_path / 'run'``."""

    def train(config, what='', name='', *options, flags=(), check=('--skip-data-check',), work_dir='run'):
        from densevit.config.reading import configs_dir

        path = tmp_path / 'config.py'
        task = (
            dict(load="dict(type='LoadAnnotations', reduce_zero_label=True)", pack='PackSegInputs')
            if config == SEGMENT
            else dict(load="dict(type='LoadAnnotations', with_bbox=True, with_mask=True)", pack='PackDetInputs')
        )
        path.write_text(CONFIG.format(configs=configs_dir(), config=config, what=what, name=name, **task))
        settings = [
            f'data_root={root / ("ade" if config == SEGMENT else "coco")}',
            'model.backbone.arch.depth=1',
            'default_hooks.logger.interval=1',
            *(f'{part}={None}' for part in ('val_dataloader', 'val_evaluator', 'val_cfg')),
            *(f'{part}={None}' for part in ('test_dataloader', 'test_evaluator', 'test_cfg')),
            'default_hooks.checkpoint.save_best=None',
        ]
        return tool(
            'train', path, '--work-dir', tmp_path / work_dir, *check, *flags,
            '--cfg-options', *settings, *SHORT[config], *options,
        )  # fmt: skip

    return train


def plant(root: Path) -> dict[str, str]:
    """Break four of the eight samples for segmentation; which file, and what is said of it."""
    images, labels = root / 'ade/images/training', root / 'ade/annotations/training'
    cut = images / f'{FIRST}.png'
    cut.write_bytes(cut.read_bytes()[:900])
    small = labels / f'{SECOND}.png'
    Image.fromarray(np.asarray(Image.open(small))[:, :-6]).save(small)
    outside = labels / f'{THIRD}.png'
    values = np.asarray(Image.open(outside)).copy()
    values[:, 40:60] = 99
    Image.fromarray(values).save(outside)
    absent = labels / 'scene_00000.png'
    absent.unlink()
    return {
        str(cut): 'cannot read',
        str(small): 'has 90 x 64 pixels, but its image',
        str(outside): 'has class 98, counted from 0',
        str(absent): 'there is no such file',
    }


def test_segmentation_stops_at_a_broken_sample(run, root):
    files = plant(root)
    for workers in (0, 2):
        done = run(SEGMENT, '', '', f'train_dataloader.num_workers={workers}', flags=['--seed', str(workers)])
        assert done.status == 2
        line = done.err.strip().splitlines()[-1]
        assert line.startswith('error: ') and line.endswith('--skip-broken.')
        (found,) = (path for path in files if repr(path) in line)
        assert files[found] in line


def test_segmentation_goes_on_without_broken_samples(run, root, tmp_path):
    files = plant(root)
    losses = []
    for workers in (0, 2):
        options = [f'train_dataloader.num_workers={workers}', 'train_dataloader.batch_size=8']
        # the check before the first iteration finds them too, and lets them pass
        more = dict(check=[] if workers else ['--skip-data-check'], work_dir=f'run{workers}')
        done = run(SEGMENT, '', '', *options, flags=['--skip-broken', '100'], **more)
        assert done.status == 0, done.err
        noted = read_list(tmp_path / f'run{workers}/skipped_samples.jsonl')
        assert noted.keys() == files.keys()
        assert all(text in noted[path] for path, text in files.items())
        assert 'samples as broken (4 files' in done.out
        losses.append(training(tmp_path / f'run{workers}', 'loss'))
    # what comes in their place is a function of seed and position
    assert losses[0] == losses[1] and len(losses[0]) == 3


@pytest.mark.parametrize('workers', [0, 1])
def test_nothing_is_lost_when_a_broken_sample_is_mended(run, tmp_path, workers):
    """The run that it has stopped goes on to the weights of one that never met it."""
    options = [f'train_dataloader.num_workers={workers}', 'train_dataloader.batch_size=2', 'train_cfg.max_iters=4']
    assert run(SEGMENT, '', '', *options, work_dir='whole').status == 0
    done = run(SEGMENT, 'raise', FIRST, *options)
    assert done.status == 2 and FIRST in done.err
    (saved,) = (tmp_path / 'run').glob('iter_*.pth')
    assert saved.name == 'iter_2.pth'  # it belongs to the third batch
    assert f'saved as {saved}: --resume goes on from there' in done.out
    done = run(SEGMENT, '', '', *options, flags=['--resume'])
    assert done.status == 0 and f'going on from {saved}' in done.out
    whole, resumed = (read_checkpoint(tmp_path / name / 'iter_4.pth')['state_dict'] for name in ('whole', 'run'))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_too_many_broken_samples(run, root):
    """Four of eight are more than 5 %; and where none is sound, it is said at once."""
    done = run(SEGMENT, 'raise', 'scene', flags=['--skip-broken', '100'])
    assert done.status == 2
    assert "20 samples in a row are broken, the last one because PlantedFault failed on '" in done.err
    assert "KeyError: 'planted'" in done.err
    plant(root)
    options = ['train_cfg.max_iters=30', 'train_dataloader.batch_size=8']
    done = run(SEGMENT, '', '', *options, flags=['--skip-broken'])
    assert done.status == 2
    assert 'samples are broken, more than broken_samples.limit=0.05; they are listed' in done.err


def test_detection(run, root, tmp_path):
    done = run(DETECT, 'raise', FIRST)
    assert done.status == 2
    assert f"PlantedFault failed on '{root}/coco/train2017/{FIRST}.png': KeyError: 'planted'" in done.err
    done = run(DETECT, 'class', FIRST)
    assert done.status == 2 and f'{FIRST}.png' in done.err and 'but there are 8 classes' in done.err

    image = root / f'coco/train2017/{SECOND}.png'
    Image.fromarray(np.zeros((64, 80, 3), np.uint8)).save(image)
    done = run(DETECT, 'drop', FIRST, flags=['--skip-broken', '100'])
    assert done.status == 0, done.err
    (reason,) = read_list(tmp_path / 'run/skipped_samples.jsonl').values()
    assert f"'{image}' has 80 x 64 pixels, but the annotation file says 96 x 64" in reason
    assert 'dropped by PlantedFault; others were taken in their place' in done.out
    assert 'skipped ' in done.out


def test_a_killed_worker_is_named(run, root):
    options = ['train_dataloader.num_workers=2', 'train_dataloader.batch_size=1']
    done = run(DETECT, 'kill', FIRST, *options)
    assert done.status == 2
    assert 'was killed by signal 9 (Killed) while loading' in done.err
    assert f'{root}/coco/train2017/{FIRST}.png' in done.err and 'in PlantedFault; most often' in done.err


@pytest.mark.parametrize('config', [SEGMENT, DETECT])
def test_an_infinite_pixel_is_found(run, tool, tmp_path, config):
    done = run(config, 'inf', SECOND, 'train_dataloader.batch_size=8')
    assert done.status == 2, done.err
    assert 'iteration 1: the loss is ' in done.err
    file = tmp_path / 'run/nonfinite_iter_1.pth'
    assert f'python tools/replay.py {file}' in done.err
    saved = load_torch_file(file)  # no code has to run for it
    assert all(torch.isfinite(each).all() for each in saved['state_dict'].values())

    done = tool('replay', file, '--device', 'cpu')
    assert done.status == 0, done.err
    assert 'the input is not finite: 1 values of image ' in done.out
    assert 'forward: the first output that is not finite is that of backbone.' in done.out
    (line,) = (line for line in done.out.splitlines() if line.startswith('culprit: '))
    assert f'{SECOND}.png' in line and line.count('image ') == 1


def test_a_learning_rate_that_is_too_high(run, tool, tmp_path):
    """The weights are spoiled by a step of a finite loss, and the next loss says so."""
    options = ['optim_wrapper.optimizer.lr=1e30', 'param_scheduler=[]', 'optim_wrapper.clip_grad=None']
    done = run(SEGMENT, '', '', *options, flags=['--amp'])
    assert done.status == 2
    assert 'the loss is nan' in done.err
    (file,) = (tmp_path / 'run').glob('nonfinite_iter_*.pth')
    done = tool('replay', file)
    assert done.status == 0, done.err
    assert 'every image does it' in done.out or 'an earlier step has spoiled the weights' in done.out


def test_a_replay_repeats_the_run(run, tool, tmp_path, monkeypatch):
    """To the last bit, with a step whose loss is said to be infinite though it is not."""
    from densevit.engine import guards

    monkeypatch.setattr(guards.math, 'isfinite', lambda value: False)
    monkeypatch.setattr(guards, '_REPORTED', True, raising=False)
    done = run(DETECT, flags=['--amp'])
    monkeypatch.undo()
    assert done.status == 2
    file = tmp_path / 'run/nonfinite_iter_1.pth'
    saved = load_torch_file(file)
    done = tool('replay', file, '--device', 'cpu')
    assert done.status == 1, done.err
    assert f'loss {saved["value"]:.6g}, ' in done.out
    assert 'all is finite here' in done.out


def test_files_that_are_no_step(tool, tmp_path):
    for content, text in ((None, 'no such file'), ({'format': 'other'}, 'is no step'), ('no', 'cannot be read')):
        file = tmp_path / 'step.pth'
        if content == 'no':
            file.write_bytes(b'PK\x03\x04' + bytes(50))
        elif content is not None:
            torch.save(content, file)
        done = tool('replay', file)
        assert done.status == 2 and text in done.err
    with pytest.raises(SystemExit):
        tool('replay', '--help')


def test_a_policy_that_is_none(run):
    done = run(SEGMENT, '', '', 'broken_samples=skp')
    assert done.status == 2 and "broken_samples.policy='skp': give 'stop' or 'skip'; did you mean" in done.err
    assert json.loads('1') == 1
