"""tools/train.py on a few generated scenes, both tasks."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from densevit.checkpoints import read_checkpoint, read_state_dict

from .conftest import DETECT, ROOT, SEGMENT, load_tool, metrics, options, training, validation


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        load_tool('train').parser().parse_args(['--help'])
    assert end.value.code == 0
    text = capsys.readouterr().out
    expected = (
        'config --work-dir --cfg-options --launcher --seed --deterministic --skip-data-check --debug --resume '
        '--processes --fsdp --load-from --new-classes --trust-checkpoint --amp --accumulate --auto-scale-lr --ema '
        '--skip-broken --tensorboard --wandb'
    )
    assert [name for name in expected.split() if name not in text] == []


def test_from_any_folder_with_relative_paths(tool, scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(scenes.parent)
    work_dir = os.path.relpath(tmp_path, scenes.parent)
    relative = Path(scenes.name)
    done = tool('train', SEGMENT, '--work-dir', work_dir, '--tensorboard', *options(SEGMENT, relative))
    assert done.status == 0, done.err
    lines = done.out.rstrip().splitlines()
    assert lines[0] == f'train_dataloader.dataset: 8 images in {scenes}/ade'
    assert lines[-1].endswith(f'results: {tmp_path}')  # the path to look at is printed last
    assert 'batch: 2 images per update' in done.out
    assert 'eta: 0:00:0' in done.out
    assert len(list(tmp_path.glob('*/vis_data/events.out.tfevents.*'))) == 1
    assert len(list(tmp_path.glob('*/environment.txt'))) == 1


def test_log_is_quiet(tool, scenes, tmp_path):
    done = tool('train', SEGMENT, '--work-dir', tmp_path, *options(SEGMENT, scenes, 'train_cfg.max_iters=1'))
    assert done.status == 0, done.err
    # of one iteration the check says, rightly, that the schedule is for more
    schedule = ('nothing is validated', 'does not come to its end')
    lines = [line for line in (done.out + done.err).splitlines() if not any(words in line for words in schedule)]
    for noise in ('OneDL', 'paramwise_options', 'Hooks will be executed', 'norm_cfg=', 'Warning', 'WARNING'):
        assert not any(noise in line for line in lines)


def test_best_checkpoint_and_validation_loss(segmentor, detector):
    for work_dir, best in ((segmentor, 'best_mIoU_iter_*.pth'), (detector, 'best_coco_segm_mAP_epoch_*.pth')):
        assert len(list(work_dir.glob(best))) == 1
        values = validation(work_dir)
        assert 0 < values['val/loss'] < 20
    # the newest is kept beside it, and no older one
    assert [path.name for path in segmentor.glob('iter_*.pth')] == ['iter_4.pth']
    assert [path.name for path in detector.glob('epoch_*.pth')] == ['epoch_2.pth']


@pytest.mark.parametrize('config', [SEGMENT, DETECT])
def test_amp_and_ema(tool, scenes, tmp_path, config):
    """bfloat16 on the CPU trains and validates; what is validated and saved is the average."""
    done = tool('train', config, '--work-dir', tmp_path, '--amp', '--ema', '0.3', *options(config, scenes))
    assert done.status == 0, done.err
    assert all(loss == loss for (loss,) in training(tmp_path, 'loss'))
    newest = tmp_path / ('iter_4.pth' if config == SEGMENT else 'epoch_2.pth')
    content = read_checkpoint(newest)
    average, trained = content['state_dict'], content['ema_state_dict']
    key = 'backbone.blocks.0.conv_in.weight'
    assert average[key].dtype == torch.float32
    assert not torch.equal(average[key], trained[f'module.{key}'])
    assert torch.equal(read_state_dict(newest)[key], average[key])

    done = tool('test', config, newest, '--work-dir', tmp_path / 'test', *options(config, scenes))
    assert done.status == 0, done.err
    tested, validated = metrics(tmp_path / 'test'), validation(tmp_path)
    names = ('mIoU', 'aAcc') if config == SEGMENT else ('coco/bbox_mAP', 'coco/segm_mAP_50')
    assert [tested[name] for name in names] == [validated[name] for name in names]


def test_resume_goes_on_where_it_stopped(tool, scenes, tmp_path):
    whole = tmp_path / 'whole'
    keep = options(SEGMENT, scenes, 'default_hooks.checkpoint.max_keep_ckpts=2')
    done = tool('train', SEGMENT, '--work-dir', whole, *keep)
    assert done.status == 0, done.err
    steps = training(whole, 'step', 'lr')
    assert [step for step, _ in steps] == [1, 2, 3, 4]

    stopped = tmp_path / 'stopped'  # as if the run had ended here, and its folder had been moved
    stopped.mkdir()
    (stopped / 'iter_2.pth').write_bytes((whole / 'iter_2.pth').read_bytes())
    (stopped / 'last_checkpoint').write_text('/elsewhere/iter_2.pth')
    for work_dir, resume in ((stopped, []), (tmp_path / 'more', [whole / 'iter_2.pth'])):
        done = tool('train', SEGMENT, '--work-dir', work_dir, '--resume', *resume, *options(SEGMENT, scenes))
        assert done.status == 0, done.err
        assert training(work_dir, 'step', 'lr') == steps[2:]


def test_resume_without_a_checkpoint_starts_anew(tool, scenes, tmp_path):
    done = tool(
        'train', SEGMENT, '--work-dir', tmp_path, '--resume', *options(SEGMENT, scenes, 'train_cfg.max_iters=1')
    )
    assert done.status == 0, done.err
    assert 'no checkpoint in' in done.out
    assert [step for (step,) in training(tmp_path, 'step')] == [1]


def test_seed(tool, scenes, tmp_path):
    values = []
    for name, seed in (('first', '3'), ('second', '3'), ('third', '4')):
        run = [SEGMENT, '--work-dir', tmp_path / name, '--seed', seed, '--deterministic', *options(SEGMENT, scenes)]
        assert tool('train', *run).status == 0
        values.append(training(tmp_path / name, 'loss', 'decode.acc_seg') + [validation(tmp_path / name)['val/loss']])
    assert values[0] == values[1]
    assert values[0] != values[2]


def test_accumulate_makes_as_many_updates(tool, scenes, segmentor, tmp_path):
    done = tool('train', SEGMENT, '--work-dir', tmp_path, '--accumulate', '3', *options(SEGMENT, scenes))
    assert done.status == 0, done.err
    assert 'batch: 6 images per update' in done.out

    def count(path: Path) -> tuple[int, int]:
        content = read_checkpoint(path)
        return content['meta']['iter'], int(content['optimizer']['state'][0]['step'])

    assert count(segmentor / 'iter_4.pth') == (4, 4)
    assert count(tmp_path / 'iter_12.pth') == (12, 4)
    # the schedule is stretched, not repeated
    assert training(tmp_path, 'lr')[-1][0] < training(tmp_path, 'lr')[3][0]


def test_auto_scale_lr(tool, scenes, tmp_path):
    more = options(SEGMENT, scenes, 'auto_scale_lr.base_batch_size=4', 'train_cfg.max_iters=1')
    done = tool('train', SEGMENT, '--work-dir', tmp_path / 'scaled', '--auto-scale-lr', *more)
    assert done.status == 0, done.err
    assert "batch: 2 images per update at learning rate 0.0015; the recipe's batch is 4, the rate is scaled" in done.out
    done = tool('train', SEGMENT, '--work-dir', tmp_path / 'plain', *more)
    assert 'use --accumulate 2, or --auto-scale-lr' in done.out
    (scaled,), (plain,) = training(tmp_path / 'scaled', 'lr'), training(tmp_path / 'plain', 'lr')
    assert scaled[0] == pytest.approx(plain[0] / 2)


def test_weights_for_other_classes(tool, scenes, detector, tmp_path):
    """All six tensors that count classes start anew and are listed; everything else is loaded."""
    heads = [f'model.roi_head.{head}.num_classes=2' for head in ('bbox_head', 'mask_head')]
    start = ['--load-from', detector / 'epoch_2.pth', '--new-classes', '--skip-data-check', '--work-dir', tmp_path]
    short = options(DETECT, scenes, *heads, "train_dataloader.dataset.metainfo.classes=('disc','square')")
    done = tool('train', DETECT, *start, *short, 'train_cfg.max_epochs=1', 'val_cfg=None', 'val_dataloader=None',
                'val_evaluator=None')  # fmt: skip
    assert done.status == 0, done.err
    (line,) = (line for line in done.out.splitlines() if 'for new classes: ' in line)
    names = line.partition('for new classes: ')[2].split(', ')
    assert len(names) == 6 and all(name.startswith('roi_head.') for name in names)


TWO_CLASSES = 'model.decode_head.num_classes=2'


def _mistakes(scenes: Path, tmp_path: Path, segmentor: Path, detector: Path) -> dict[str, tuple[list, str]]:
    cut = tmp_path / 'cut.pth'
    cut.write_bytes((segmentor / 'iter_4.pth').read_bytes()[:5000])
    short = options(SEGMENT, scenes)
    return {
        'config': (['upernet_patchconvnet-tiny_scene'], 'upernet_patchconvnet-tiny_scenes'),
        'key': ([SEGMENT, '--cfg-options', 'modle.decode_head.channels=8'], "'modle'"),
        'type': ([SEGMENT, '--cfg-options', 'model.backbone.type=densevit.PatchConvNe'], "'PatchConvNet'"),
        'data root': ([SEGMENT, '--cfg-options', f'data_root={tmp_path}/absent'], f'{tmp_path}/absent'),
        'no checkpoint': ([SEGMENT, '--load-from', 'absent.pth', *short], "'absent.pth' does not exist"),
        'nothing to resume': ([SEGMENT, '--resume', 'absent.pth', *short], "'absent.pth' does not exist"),
        'cut checkpoint': ([SEGMENT, '--load-from', str(cut), *short], 'cut.pth'),
        'other checkpoint': ([SEGMENT, '--load-from', str(detector / 'epoch_2.pth'), *short], 'is that of a detector'),
        'weights only': (
            [SEGMENT, '--resume', str(next(detector.glob('best_*.pth'))), *short],
            'lacks the state of optimizer or schedule',
        ),
        'accumulate': ([SEGMENT, '--accumulate', '0', *short], '--accumulate 0'),
        'ema': ([SEGMENT, '--ema', '2', *short], '--ema 2'),
        'launcher': ([SEGMENT, '--launcher', 'pytorch', *short], 'torchrun'),
        'folder': (['.'], 'is a folder'),
        'number': ([SEGMENT, *short, 'train_cfg.max_iters=abc'], "not 'abc'"),
        'argument': ([SEGMENT, *short, 'model.backbone.out_indices=[99]'], 'out_indices=(99,) must name'),
        'one image': ([SEGMENT, *short, 'train_dataloader.batch_size=1'], 'batch_size=2'),
        'classes': (
            [SEGMENT, '--load-from', str(segmentor / 'iter_4.pth'), '--skip-data-check', *short, TWO_CLASSES],
            '--new-classes',
        ),
        'scale': ([SEGMENT, '--auto-scale-lr', *short, 'auto_scale_lr=None'], 'base_batch_size'),
    }


MISTAKES = [
    'config', 'key', 'type', 'data root', 'no checkpoint', 'nothing to resume', 'cut checkpoint', 'other checkpoint',
    'weights only', 'accumulate', 'ema', 'launcher', 'folder', 'number', 'argument', 'one image', 'classes', 'scale',
]  # fmt: skip


@pytest.mark.parametrize('name', MISTAKES)
def test_mistake_is_one_sentence(tool, scenes, segmentor, detector, tmp_path, monkeypatch, name):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    cases = _mistakes(scenes, tmp_path, segmentor, detector)
    assert list(cases) == MISTAKES
    arguments, named = cases[name]
    done = tool('train', *arguments, '--work-dir', str(tmp_path / 'run'))
    assert done.status == 2
    first, *others = done.err.splitlines()
    assert first.startswith('error: '), done.err
    # several mistakes are a list, a line each
    assert not others or (first.endswith('mistakes:') and all(line.startswith('- ') for line in others)), done.err
    assert named in done.err
    assert 'Traceback' not in done.err + done.out


def test_debug_shows_the_traceback(tool):
    done = tool('train', 'absent.py', '--debug')
    assert done.status == 2
    assert 'Traceback' in done.err and done.err.splitlines()[-1].startswith('error: ')


@pytest.mark.parametrize('package', ['tensorboard', 'wandb'])
def test_absent_logger(tool, scenes, tmp_path, monkeypatch, package):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        'densevit.engine.options.find_spec', lambda name, *more: None if name == package else real(name, *more)
    )
    done = tool('train', SEGMENT, f'--{package}', '--work-dir', tmp_path, *options(SEGMENT, scenes))
    assert done.status == 2
    assert done.err == f'error: --{package} needs the package {package!r}: `pip install {package}`.\n'


@pytest.mark.parametrize('folder', ['images', 'annotations'])
def test_unreadable_file_in_a_worker_is_named(tool, tmp_path, folder):
    from densevit.data.scenes import generate

    scenes = generate(tmp_path / 'scenes', 2, 1, (64, 96), 0)
    broken = scenes / 'ade' / folder / 'training' / 'scene_00001.png'
    broken.unlink()  # COCO's copy is the same file
    broken.write_bytes(b'not an image')
    more = ['train_dataloader.num_workers=1']
    done = tool('train', SEGMENT, '--skip-data-check', '--work-dir', tmp_path / 'run', *options(SEGMENT, scenes, *more))
    assert done.status == 2
    assert done.err.startswith(f'error: cannot read {str(broken)!r}') and done.err.count('\n') == 1, done.err


DISTRIBUTED = """
_base_ = [{base!r}]
custom_imports = dict(imports=['compare_ranks'])
custom_hooks = [dict(type='CompareRanks')]
"""
HOOK = """
import torch
from mmengine.dist import all_gather
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class CompareRanks(Hook):
    def before_train(self, runner):
        self.begin = self.vector(runner)

    def vector(self, runner):
        return torch.cat([p.detach().flatten().double() for p in runner.model.parameters()])

    def after_train(self, runner):
        first, second = all_gather(self.vector(runner))
        assert torch.equal(first, second) and not torch.equal(first, self.begin)
        print('ranks agree', flush=True)
"""


def test_two_gloo_processes(tool, scenes, tmp_path):
    """Equal weights on both, and one score of all the images: the one that a single process gets."""
    (tmp_path / 'compare_ranks.py').write_text(HOOK)
    config = tmp_path / 'two.py'
    config.write_text(DISTRIBUTED.format(base=str(ROOT / 'configs' / f'{SEGMENT}.py')))
    # three images for two processes: one would be counted twice
    more = options(SEGMENT, scenes, 'val_dataloader.dataset.indices=3', 'val_dataloader.batch_size=1')
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--processes', '2']
    command += ['--work-dir', str(tmp_path)]
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([*command, *more], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('ranks agree') == 2
    assert 'batch: 4 images per update' in done.stdout
    validated = validation(tmp_path)

    single = options(SEGMENT, scenes, 'test_dataloader.dataset.indices=3')
    assert tool('test', SEGMENT, tmp_path / 'iter_4.pth', '--work-dir', tmp_path / 'single', *single).status == 0
    tested = metrics(tmp_path / 'single')
    for name in ('mIoU', 'aAcc'):
        assert tested[name] == pytest.approx(validated[name], abs=1e-3)
