"""Two processes against one: the same training, the same scores; and what is said when one of them fails.

Every run is tools/train.py or tools/test.py as a whole, its processes over gloo.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import DefaultSampler

from densevit.checkpoints import read_checkpoint
from densevit.data.scenes import generate
from densevit.engine import distributed
from densevit.engine.distributed import distribute
from densevit.errors import UserError
from densevit.evaluation.coco import CocoMetric
from tests.engine import ranks
from tests.tools.conftest import DETECT, SEGMENT, metrics, validation

COMMON = (
    'model.backbone.arch.depth=1',
    'default_hooks.logger.interval=1',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val', 'test')),
    'train_dataloader.batch_size=2',
    # by which two processes and one that accumulates would differ: a schedule that is counted otherwise
    'param_scheduler=None',
)
# Small, with stochastic depth, and with no BatchNorm, whose statistics are a process's own.
KINDS = {
    SEGMENT: (
        *COMMON,
        'model.backbone.drop_path_rate=0.3',
        'model.decode_head.channels=8',
        'model.decode_head.norm_cfg.type=GN',
        'model.decode_head.norm_cfg.num_groups=2',
    ),
    # Adam makes a step of the learning rate out of a gradient that is noise: a smaller one keeps it below the tolerance
    DETECT: (*COMMON, 'optim_wrapper.optimizer.lr=0.0003', 'model.test_cfg.rcnn.score_thr=0.01'),
}
KEEP = ('default_hooks.checkpoint.interval=1', 'default_hooks.checkpoint.max_keep_ckpts=3')
TRAIN_ONLY = ('val_cfg=None', 'val_dataloader=None', 'val_evaluator=None', 'default_hooks.checkpoint.save_best=None')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    """8 + 5 scenes: five are shared by two processes as three and three, one of them twice."""
    return generate(tmp_path_factory.mktemp('data') / 'scenes', 8, 5, (64, 96), 0)


def options(config: str, scenes: Path, *more: str) -> list[str]:
    root = scenes / ('ade' if config == SEGMENT else 'coco')
    return [config, '--seed', '3', '--skip-data-check', '--cfg-options', f'data_root={root}', *KINDS[config], *more]


def trained(processes: int, config: str, scenes: Path, folder: Path, *more: str, updates: int = 3) -> dict:
    """The content of the last checkpoint, after so many updates of four images."""
    # --accumulate makes a schedule by iterations longer, and none by epochs
    length = {
        SEGMENT: f'train_cfg.max_iters={updates}',
        DETECT: f'train_dataloader.dataset.indices={4 * updates}',
    }[config]
    epochs = ['train_cfg.max_epochs=1'] if config == DETECT else []
    ranks.run(
        processes, folder, 'train', *options(config, scenes, *TRAIN_ONLY, length, *epochs, *KEEP),
        '--work-dir', folder, *more,
    )  # fmt: skip
    return read_checkpoint(Path((folder / 'last_checkpoint').read_text()))


def difference(first: dict, second: dict) -> float:
    """The largest, of all weights."""
    assert first['state_dict'].keys() == second['state_dict'].keys()
    return max(
        (first['state_dict'][name].double() - tensor.double()).abs().max().item()
        for name, tensor in second['state_dict'].items()
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def in_two(scenes, folder) -> dict[str, dict]:
    """By config: after three updates of two processes."""
    return {config: trained(2, config, scenes, folder / f'two_{config}') for config in KINDS}


@pytest.fixture(scope='module')
def sharded(scenes, folder) -> dict:
    """After the same, with a part of the segmentor in each process."""
    return trained(2, SEGMENT, scenes, folder / 'sharded', '--fsdp')


@pytest.mark.parametrize('config', list(KINDS))
def test_two_processes_are_one_that_accumulates(in_two, scenes, folder, config):
    """The same samples, drop paths and sampled boxes; each shard's loss has its own normalisation in both."""
    one = trained(1, config, scenes, folder / f'one_{config}', '--accumulate', '2')
    assert difference(in_two[config], one) <= 1e-5
    if config == SEGMENT:  # it has learned something since its first update
        assert difference(in_two[config], read_checkpoint(folder / f'two_{config}' / 'iter_1.pth')) > 1e-4


def test_a_sharded_run_is_the_same_and_goes_on(in_two, sharded, scenes, folder):
    """Its checkpoints are those of a run of whole models; what it goes on to is what it would have become."""
    assert difference(in_two[SEGMENT], sharded) <= 1e-5
    theirs, ours = in_two[SEGMENT]['optimizer'], sharded['optimizer']
    assert [group['params'] for group in ours['param_groups']] == [group['params'] for group in theirs['param_groups']]
    decays = {group['weight_decay'] for group in ours['param_groups']}
    assert decays == {0.05, 0.0}
    for number, state in theirs['state'].items():
        for name, value in state.items():
            assert type(ours['state'][number][name]) is torch.Tensor
            torch.testing.assert_close(ours['state'][number][name], value, rtol=1e-4, atol=1e-6)
    checkpoint = folder / 'sharded' / 'iter_2.pth'
    resumed = trained(2, SEGMENT, scenes, folder / 'again', '--resume', checkpoint, '--fsdp')
    assert resumed['meta']['iter'] == 3
    assert difference(resumed, sharded) == 0


@pytest.mark.slow
@pytest.mark.usefixtures('sharded')
@pytest.mark.parametrize(('before', 'more'), [(f'two_{SEGMENT}', ['--fsdp']), ('sharded', [])], ids=['two', 'sharded'])
def test_whole_from_sharded_and_the_other_way(in_two, scenes, folder, before, more):
    checkpoint = folder / before / 'iter_2.pth'
    resumed = trained(2, SEGMENT, scenes, folder / f'from_{before}', '--resume', checkpoint, *more)
    assert difference(resumed, in_two[SEGMENT]) <= 1e-5


@pytest.mark.slow
def test_a_sharded_detector_in_bfloat16(scenes, folder):
    """Blocks with weights in bfloat16, gradients that are clipped."""
    content = trained(2, DETECT, scenes, folder / 'bfloat16', '--fsdp', '--amp', updates=1)
    assert {tensor.dtype for tensor in content['state_dict'].values() if tensor.is_floating_point()} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in content['state_dict'].values())


@pytest.mark.parametrize('config', [SEGMENT, pytest.param(DETECT, marks=pytest.mark.slow)])
def test_validation_counts_every_image_once(in_two, scenes, folder, config):
    """Five images, two at a time, in one process and two; the last training was stopped before its validation."""
    newest = next((folder / f'two_{config}').glob('iter_3.pth' if config == SEGMENT else 'epoch_1.pth'))
    length = 'train_cfg.max_iters=3' if config == SEGMENT else 'train_cfg.max_epochs=1'
    more = [length, 'train_dataloader.dataset.indices=12', 'val_dataloader.batch_size=2']
    for processes in (1, 2):
        ranks.run(processes, folder / f'val_{config}_{processes}', 'train', *options(config, scenes, *more),
                  '--resume', newest, '--work-dir', folder / f'val_{config}_{processes}')  # fmt: skip
    one, two = (validation(folder / f'val_{config}_{processes}') for processes in (1, 2))
    names = [name for name in one if name.startswith(('val/', 'mIoU', 'aAcc', 'coco/'))]
    assert 'val/loss' in names and len(names) > 4
    assert {name: two[name] for name in names} == pytest.approx({name: one[name] for name in names}, rel=1e-5)


@pytest.mark.parametrize('images', [1, pytest.param(5, marks=pytest.mark.slow)])
def test_test_counts_every_image_once(scenes, folder, images):
    """The tool, with a report, on random weights; one image is fewer than processes."""
    config = 'upernet_patchconvnet-tiny-classattn_scenes'
    test = (
        config,
        '--seed',
        '3',
        '--skip-data-check',
        '--cfg-options',
        f'data_root={scenes}/ade',
        *COMMON[:-2],
        'test_dataloader.batch_size=1',
    )
    found = {}
    for processes in (1, 2):
        here = folder / f'test_{images}_{processes}'
        more = [] if images == 1 else ['--report', here / 'report']
        ranks.run(processes, here, 'test', *test, f'test_dataloader.dataset.indices={images}',
                  '--work-dir', here, *more)  # fmt: skip
        found[processes] = metrics(here)
        assert images == 1 or '5 images' in (here / 'report' / 'index.html').read_text()
    assert found[1]['attention/energy'] > 0
    assert found[2] == found[1]


def _score(environment: dict[str, str], annotations: str, size: int, queue) -> None:
    """COCO AP of one right and one wrong box per image, where a repeated image would count its boxes twice."""
    os.environ.update(environment)
    torch.distributed.init_process_group('gloo')
    metric = CocoMetric(ann_file=annotations, metric='bbox')
    metric.dataset_meta = {'classes': ('disc',)}
    for index in DefaultSampler(range(size), shuffle=False):
        boxes = torch.tensor([[10.0, 10, 30, 30], [40, 40, 50 + index, 60]])
        found = {'bboxes': boxes, 'scores': torch.tensor([0.5 + index / 20, 0.9]), 'labels': torch.tensor([0, 0])}
        metric.process({}, [{'img_id': index, 'ori_shape': (64, 96), 'pred_instances': found}])
    queue.put(metric.evaluate(size))
    torch.distributed.barrier()


@pytest.mark.parametrize('size', [1, 5])
def test_average_precision_counts_every_image_once(tmp_path, size):
    content = {
        'images': [{'id': index, 'width': 96, 'height': 64} for index in range(size)],
        'annotations': [
            {'id': index + 1, 'image_id': index, 'category_id': 1, 'bbox': [10, 10, 20, 20], 'area': 400, 'iscrowd': 0}
            for index in range(size)
        ],
        'categories': [{'id': 1, 'name': 'disc'}],
    }
    annotations = tmp_path / 'truth.json'
    annotations.write_text(json.dumps(content))
    values = {}
    for processes in (1, 3):
        queue = ranks.CONTEXT.SimpleQueue()
        children = ranks.fork(processes, _score, str(annotations), size, queue)
        found = [queue.get() for _ in range(processes)]
        ranks.wait(children)
        assert all(each == found[0] for each in found)
        values[processes] = found[0]
    assert 0 < values[1]['coco/bbox_mAP'] < 1
    assert values[3] == values[1]


# ------------------------------------------------------------------------------------------------------- failing
def test_a_killed_process_ends_the_others_with_a_message(scenes, tmp_path):
    """Under torchrun or a launcher of one's own; --processes N knows more, see test_launch.py."""
    children = ranks.start(2, tmp_path, 'train', *options(SEGMENT, scenes, *TRAIN_ONLY, 'train_cfg.max_iters=100000'),
                           '--work-dir', tmp_path)  # fmt: skip
    while 'Iter(train)' not in children[0].log.read_text():
        assert all(child.is_alive() for child in children), children[0].log.read_text()
        time.sleep(0.1)
    os.kill(children[1].pid, signal.SIGKILL)
    first, second = ranks.wait(children)
    assert (first.status, second.status) == (2, -signal.SIGKILL)
    said = first.said.splitlines()[-1]
    assert said.startswith('error: process 0 of 2: another process of this run has ended') and '--resume' in said
    assert 'Traceback' not in first.said


def test_only_the_first_to_fail_says_so(scenes, tmp_path):
    """A mistake in the data that one process meets: the other one has nothing to add."""
    root = generate(tmp_path / 'scenes', 4, 1, (64, 96), 0)
    broken = root / 'ade' / 'images' / 'training' / 'scene_00002.png'
    broken.unlink()
    broken.write_bytes(b'no image')
    children = ranks.start(2, tmp_path, 'train', *options(SEGMENT, root, *TRAIN_ONLY, 'train_cfg.max_iters=9'),
                           '--work-dir', tmp_path)  # fmt: skip
    ended = ranks.wait(children)
    assert [each.status for each in ended] == [2, 2]
    said = [line for each in ended for line in each.said.splitlines() if 'error' in line or 'Traceback' in line]
    assert len(said) == 1 and said[0].startswith('error: cannot read') and str(broken) in said[0]


# ------------------------------------------------------------------------------------------------------- options
@pytest.fixture
def launched(monkeypatch) -> None:
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr(distributed.torch.cuda, 'is_available', lambda: False)


@pytest.mark.parametrize('timeout', [0, -1, '60', True])
def test_a_timeout_is_a_number_of_seconds(launched, timeout):
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=timeout))))
    with pytest.raises(UserError, match=f'env_cfg.dist_cfg.timeout={timeout!r}'):
        distribute(cfg)


def test_a_timeout_of_the_config_is_kept(launched):
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=60))))
    distribute(cfg)
    assert cfg.env_cfg.dist_cfg == dict(backend='gloo', timeout=60)
    cfg = Config(dict(launcher='pytorch'))
    distribute(cfg)
    assert cfg.env_cfg.dist_cfg.timeout == distributed.TIMEOUT


def test_sharding_needs_processes(launched):
    with pytest.raises(UserError, match='--processes N'):
        distribute(Config(dict(launcher='none')), fsdp=True)
    cfg = Config(dict(launcher='pytorch'))
    distribute(cfg, fsdp=True, amp=True)
    assert cfg.model_wrapper_cfg == ConfigDict(type='densevit.FullyShardedModel', mixed_precision=True)
