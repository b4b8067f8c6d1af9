"""Trainings that are stopped by real signals, and go on."""

from __future__ import annotations

import argparse
import signal
import time

import pytest
import torch
from mmengine.hooks import Hook

from densevit.checkpoints import read_checkpoint
from densevit.checkpoints.newest import newest_checkpoint
from densevit.data.scenes import generate
from densevit.engine import signals
from densevit.engine.cli import run_tool
from densevit.engine.signals import StopSignals
from densevit.engine.stop_hook import StopHook
from tests.engine.toy_run import CONTEXT, Child, toy_runner, with_validation
from tests.scope import scope_restored
from tests.tools.conftest import load_tool

SLOW = 0.08  # seconds for a sample, three of which make an iteration


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


class BeginHook(Hook):
    """Says that signals are awaited: it comes after the hook that stops."""

    priority = 'LOWEST'

    def before_train(self, runner):
        print('--- training')


def train(folder, options, resume=None):
    """As ``tools/train.py`` does it; returns the exit status."""

    def main(args):
        with StopSignals() as asked:
            runner = toy_runner(folder, resume=resume, **options)
            runner.register_hook(StopHook(asked))
            runner.register_hook(BeginHook())
            print('--- ready')
            runner.train()

    parser = argparse.ArgumentParser()
    parser.set_defaults(debug=False)
    return run_tool(parser, main, [])


def weights(folder):
    content = read_checkpoint(newest_checkpoint(folder).path)
    return content['meta']['iter'], content['state_dict']['layer.weight'], content


CASES = {
    'iterations': (signal.SIGUSR1, 138, dict()),
    'epochs': (signal.SIGINT, 130, dict(epochs=True)),
    'workers': (signal.SIGTERM, 143, dict(workers=2)),
    'average': (
        signal.SIGTERM,
        143,
        dict(custom_hooks=[dict(type='EMAHook', momentum=0.3)], optim_wrapper=dict(accumulative_counts=5)),
    ),
    'without hook': (signal.SIGTERM, 143, dict(default_hooks=dict(checkpoint=None))),
}


@pytest.mark.parametrize('name', CASES)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, name):
    """The weights of both are the same bits."""
    number, status, options = CASES[name]
    straight = Child(tmp_path, train, tmp_path / 'straight', options)
    child = Child(tmp_path, train, tmp_path / 'run', dict(options, seconds=SLOW))
    child.wait_for('[ 5/12]' if name != 'epochs' else '[2][1/4]')
    child.send(number)
    assert child.end() == status, child.text()
    said = child.text()
    assert 'Traceback' not in said and said.count('finishing this iteration') == 1
    found = newest_checkpoint(tmp_path / 'run')
    stopped, _, content = weights(tmp_path / 'run')
    assert found.path.endswith(f'iter_{stopped}.pth') and 5 <= stopped < 12
    last = f'stopped by {number.name}: after iteration {stopped}; saved as {found.path}, --resume goes on from there.'
    assert said.splitlines()[-1] == last
    if name == 'epochs':
        assert content['meta']['epoch'] == stopped // 4
    child = Child(tmp_path, train, tmp_path / 'run', options, found.path)
    assert child.end() == 0 and straight.end() == 0, child.text()
    if name == 'without hook':  # and so without a last checkpoint
        return
    (iteration, weight, content), (_, expected, other) = weights(tmp_path / 'run'), weights(tmp_path / 'straight')
    assert iteration == 12 and torch.equal(weight, expected)
    for first, second in zip(content['optimizer']['state'].values(), other['optimizer']['state'].values(), strict=True):
        assert all(torch.equal(torch.as_tensor(first[key]), torch.as_tensor(second[key])) for key in first)
    # what was saved between the regular ones has gone
    assert len(list((tmp_path / 'run').glob('*.pth'))) == 1


def test_stopped_in_a_validation(tmp_path):
    """Which is not marked as done, nor has the average stayed in the weights' place."""
    options = dict(custom_hooks=[dict(type='EMAHook', momentum=0.3)], **with_validation(seconds=0.5, interval=3))
    child = Child(tmp_path, train, tmp_path / 'run', options)
    child.wait_for('Iter(val) [1/4]')
    begin = time.monotonic()
    child.send(signal.SIGTERM)
    assert child.end() == 143
    assert 'after iteration 3 in a validation, which will be done anew' in child.text()
    assert 'score: ' not in child.text() and time.monotonic() - begin < 60
    stopped, _, content = weights(tmp_path / 'run')
    assert stopped == 3
    options = dict(custom_hooks=options['custom_hooks'], **with_validation(interval=3))
    straight = Child(tmp_path, train, tmp_path / 'straight', options)
    child = Child(tmp_path, train, tmp_path / 'run', options, newest_checkpoint(tmp_path / 'run').path)
    assert child.end() == 0 and straight.end() == 0
    assert child.text().count('score: ') == straight.text().count('score: ') == 4
    (_, weight, content), (_, expected, other) = weights(tmp_path / 'run'), weights(tmp_path / 'straight')
    assert torch.equal(weight, expected)
    trained = 'module.layer.weight'
    assert torch.equal(content['ema_state_dict'][trained], other['ema_state_dict'][trained])


def train_with_another(folder, options, rank):
    """As one of two processes."""
    import torch.distributed as dist

    dist.init_process_group('gloo', init_method=f'file://{folder.parent}/store', rank=rank, world_size=2)
    return train(folder, options)


@pytest.mark.parametrize('where', ['Iter(train) [ 3/12]', 'Iter(val) [1/2]'])
def test_all_processes_stop_where_one_was_asked(tmp_path, where):
    """The second, which is not the one that writes; the first alone says so."""
    options = dict(seconds=SLOW, **with_validation(seconds=0.3, interval=4))
    first, second = (Child(tmp_path, train_with_another, tmp_path / 'run', options, rank) for rank in range(2))
    first.wait_for(where)
    second.send(signal.SIGTERM)
    assert (first.end(), second.end()) == (143, 143), first.text() + second.text()
    assert 'stopped by SIGTERM: after iteration' in first.text() and 'finishing' not in first.text()
    assert 'stopped by' not in second.text() and 'finishing' in second.text()
    stopped, *_ = weights(tmp_path / 'run')
    assert f'after iteration {stopped}' in first.text()
    assert (4 if 'val' in where else 3) <= stopped < 12


def test_a_second_signal_stops_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, '_ECHO', 0.2)
    child = Child(tmp_path, train, tmp_path / 'run', dict(seconds=30.0))
    child.wait_for('--- training')
    child.send(signal.SIGINT)
    child.wait_for('finishing this iteration')
    time.sleep(0.3 if CONTEXT.get_start_method() == 'fork' else 2.1)
    child.send(signal.SIGINT)
    assert child.end() == 130
    assert child.text().splitlines()[-1].startswith('stopped by SIGINT: at once, by a second signal')
    assert newest_checkpoint(tmp_path / 'run').path is None


def test_a_run_that_has_come_to_its_end_succeeds(tmp_path):
    options = with_validation(seconds=0.2, interval=12)
    child = Child(tmp_path, train, tmp_path / 'run', options)
    child.wait_for('Iter(val) [4/4]')
    child.send(signal.SIGTERM)
    assert child.end() in (0, 143)
    assert newest_checkpoint(tmp_path / 'run').path.endswith('iter_12.pth')


# --------------------------------------------------------------------------------------------- the tool, on real images
def train_scenes(folder, *more):
    tool = load_tool('train')
    small = [
        f'data_root={folder}/scenes/ade',
        'model.backbone.arch.depth=1',
        'model.decode_head.channels=8',
        'default_hooks.logger.interval=1',
        'train_dataloader.batch_size=2',
        'train_dataloader.num_workers=2',
        'train_cfg.max_iters=200',
    ]
    words = ['upernet_patchconvnet-tiny_scenes', '--work-dir', str(folder / 'run'), '--skip-data-check', *more]
    return run_tool(tool.parser(), tool.main, [*words, '--cfg-options', *small])


def test_the_tool_stops_and_goes_on(tmp_path):
    """With data workers, which get the signal too; and what it says of a damaged checkpoint."""
    generate(tmp_path / 'scenes', 6, 2, (64, 80))
    child = Child(tmp_path, train_scenes, tmp_path)
    child.wait_for('Iter(train) [  2/200]')
    child.send(signal.SIGTERM)
    assert child.end() == 143, child.text()
    said = child.text()
    assert 'Traceback' not in said and 'killed by signal' not in said
    stopped = newest_checkpoint(tmp_path / 'run').path
    assert f'saved as {stopped}, --resume goes on from there.' in said.splitlines()[-1]
    (tmp_path / 'run' / 'iter_150.pth').write_bytes(b'PK')
    child = Child(tmp_path, train_scenes, tmp_path, '--resume')
    child.wait_for('Iter(train)')
    child.send(signal.SIGINT)
    assert child.end() == 130, child.text()
    said = child.text()
    assert f'going on from {stopped}' in said and "iter_150.pth' is cut short" in said
    number = int(stopped.rpartition('_')[2].removesuffix('.pth'))
    assert f'Iter(train) [{number + 1:3}/200]' in said
