"""Checkpoints that no accident leaves without a whole one."""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import signal
import subprocess
import time

import pytest
from mmengine.hooks import CheckpointHook as MMCheckpointHook
from mmengine.hooks import Hook

from densevit.checkpoints import atomic, read_checkpoint
from densevit.checkpoints.atomic import NotWrittenError, is_damaged
from densevit.checkpoints.newest import check_whole, newest_checkpoint
from densevit.engine.checkpoint_hook import CheckpointHook
from densevit.errors import UserError
from tests.engine.toy_run import SCALE, Child, toy_runner, with_validation
from tests.scope import scope_restored

KILLS = 15 if SCALE == 1 else SCALE


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


def names(folder):
    """Checkpoints and what belongs to them."""
    return sorted(path.name for path in folder.iterdir() if 'pth' in path.name or path.name == 'last_checkpoint')


def whole(*checkpoints):
    return sorted([*checkpoints, *(f'{name}.sha256' for name in checkpoints), 'last_checkpoint'])


@pytest.mark.parametrize('kind', ['CheckpointHook', 'mmengine.CheckpointHook', MMCheckpointHook])
def test_it_comes_into_the_place_of_mmengines(tmp_path, kind):
    cfg = dict(default_hooks=dict(checkpoint=dict(type=kind, on_full_disk='continue', priority='LOW')))
    runner = toy_runner(tmp_path, **cfg)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, MMCheckpointHook))
    assert type(hook) is CheckpointHook
    assert (hook.on_full_disk, hook.interval, hook.max_keep_ckpts, hook.priority) == ('continue', 2, 1, 'LOW')
    assert runner.cfg.default_hooks.checkpoint.type == kind


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(on_full_disk='ignore'), "on_full_disk='ignore': valid are 'stop', 'continue'"),
        (dict(intervall=3), "no argument 'intervall'; did you mean 'interval'"),
    ],
)
def test_arguments_that_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        CheckpointHook(**options)


def test_a_run_leaves_whole_files(tmp_path):
    runner = toy_runner(tmp_path, default_hooks=dict(checkpoint=dict(max_keep_ckpts=2)))
    runner.train()
    assert names(tmp_path) == whole('iter_10.pth', 'iter_12.pth')
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_12.pth')
    for number in (10, 12):
        assert is_damaged(tmp_path / f'iter_{number}.pth') is False
        content = read_checkpoint(tmp_path / f'iter_{number}.pth')
        assert content['meta']['iter'] == number
    # with the one that is removed after this was written, so that a killed run can be tidied up
    assert content['message_hub']['runtime_info']['keep_ckpt_ids'] == [8, 10, 12]


def test_the_old_one_goes_when_the_new_one_is_there(tmp_path, monkeypatch):
    seen = []
    write = atomic._write

    def spy(path, *args, **kwargs):
        seen.append((path.name, names(tmp_path)))
        write(path, *args, **kwargs)

    monkeypatch.setattr(atomic, '_write', spy)
    more = with_validation(scores=(1.0, 3.0, 2.0))
    more['default_hooks'] = dict(checkpoint=dict(interval=4, save_best='score', rule='greater'))
    toy_runner(tmp_path, **more).train()
    assert names(tmp_path) == whole('best_score_iter_8.pth', 'iter_12.pth')
    before = dict(reversed(seen))
    assert 'iter_4.pth' in before['iter_8.pth'] and 'iter_8.pth' in before['iter_12.pth']
    assert 'best_score_iter_4.pth' in before['best_score_iter_8.pth']
    assert 'iter_4.pth' in before['last_checkpoint']
    hub = read_checkpoint(tmp_path / 'iter_12.pth')['message_hub']['runtime_info']
    assert hub['best_score'] == 3.0 and hub['best_ckpt'] == str(tmp_path / 'best_score_iter_8.pth')


def test_several_best_ones_and_one_that_is_not_measured(tmp_path):
    more = with_validation(scores=(1.0, 3.0, 2.0))
    more['default_hooks'] = dict(checkpoint=dict(save_best=['score', 'toy/error'], rule=['greater', 'greater']))
    toy_runner(tmp_path, **more).train()
    assert names(tmp_path) == whole('best_score_iter_8.pth', 'best_toy_error_iter_4.pth', 'iter_12.pth')
    more['default_hooks'] = dict(checkpoint=dict(save_best='scor', rule='less'))
    with pytest.raises(UserError, match=r"save_best='scor': .*did you mean 'score'.*There are: score, toy/error"):
        toy_runner(tmp_path / 'other', **more).train()


class Break(Hook):
    """Ends a run at an event after so many iterations."""

    priority = 'VERY_HIGH'

    def __init__(self, event: str, iteration: int) -> None:
        self.iteration = iteration
        setattr(self, event, self.end)

    def end(self, runner, *args, **kwargs):
        if runner.iter == self.iteration:
            raise ZeroDivisionError('broken off')


BEST = dict(interval=4, save_best='score', rule='greater')


def broken_off(folder, event, iteration, scores, **more):
    options = dict(with_validation(scores=scores), **more)
    options['default_hooks'] = dict(checkpoint=BEST)
    runner = toy_runner(folder, **options)
    runner.register_hook(Break(event, iteration))
    with pytest.raises(ZeroDivisionError, match='broken off'):
        runner.train()


def test_the_newest_learns_of_a_best_one_of_a_validation_that_was_due(tmp_path):
    broken_off(tmp_path, 'before_val', 8, (1.0,))
    known = read_checkpoint(tmp_path / 'iter_8.pth')['message_hub']['runtime_info']
    assert (known['best_score'], known['last_validation']) == (1.0, 4)
    broken_off(tmp_path, 'before_train_iter', 8, (3.0,), resume=str(tmp_path / 'iter_8.pth'))
    known = read_checkpoint(tmp_path / 'iter_8.pth')['message_hub']['runtime_info']
    assert (known['best_score'], known['last_validation']) == (3.0, 8)
    assert names(tmp_path) == whole('best_score_iter_8.pth', 'iter_8.pth')


@pytest.mark.parametrize('moved', [True, False])
def test_best_ones_of_a_moved_folder_and_of_another(tmp_path, moved):
    """A run removes those of its own folder, wherever that was, and no others."""
    first, second = tmp_path / 'first', tmp_path / 'second'
    broken_off(first, 'before_train_iter', 4, (1.0,))
    if moved:
        first.rename(second)
    newest = (second if moved else first) / 'iter_4.pth'
    broken_off(second, 'before_train_iter', 8, (2.0,), resume=str(newest))
    assert names(second) == whole('best_score_iter_8.pth', 'iter_8.pth')
    assert first.exists() != moved and (moved or names(first) == whole('best_score_iter_4.pth', 'iter_4.pth'))


def train_beside(folder, rank):
    """As one of two processes, of which the second stops at its fourth iteration."""
    import torch.distributed as dist

    dist.init_process_group('gloo', init_method=f'file://{folder.parent}/store', rank=rank, world_size=2)
    runner = toy_runner(folder)
    if rank:
        runner.register_hook(Break('after_train_iter', 3))
    runner.train()


def test_nothing_is_saved_of_an_iteration_that_another_process_has_stopped_at(tmp_path):
    """Its loss may be one that is not finite, which is in the weights of all by then."""
    children = [Child(tmp_path, train_beside, tmp_path / 'run', rank) for rank in range(2)]
    assert [child.end() for child in children] == [1, 1]
    assert 'broken off' in children[1].text() and 'broken off' not in children[0].text()
    assert names(tmp_path / 'run') == whole('iter_2.pth')


def test_published_files_are_whole_and_named_by_their_hash(tmp_path):
    options = dict(default_hooks=dict(checkpoint=dict(published_keys=['state_dict'])))
    toy_runner(tmp_path, **options).train()
    (published,) = (path for path in tmp_path.glob('iter_12-*.pth'))
    assert list(read_checkpoint(published)) == ['state_dict'] and is_damaged(published) is False
    assert published.stem[-8:] == published.with_name(f'{published.name}.sha256').read_text()[:8]


# ------------------------------------------------------------------------------------------------------- full disks
@pytest.fixture
def filled(monkeypatch):
    """Lets every file that is written from the named one on find the disk full, until it is told otherwise."""
    write = atomic._write
    state = dict(since=None, seen=False)

    def fail(path, content, outdated=None):
        state['seen'] = state['seen'] or path.name == state['since']
        if state['seen']:
            path.with_name(f'.{path.name}.1.part').write_bytes(b'')
            path.with_name(f'.{path.name}.1.part').unlink()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content, outdated)

    monkeypatch.setattr(atomic, '_write', fail)
    return state


@pytest.mark.parametrize('since', ['iter_8.pth', 'iter_8.pth.sha256', 'last_checkpoint'])
def test_a_full_disk_stops_the_run(tmp_path, filled, since):
    filled['since'] = since
    filled['seen'] = since == 'last_checkpoint'
    with pytest.raises(NotWrittenError, match=r'No space left on device.*make room there'):
        toy_runner(tmp_path).train()
    found = names(tmp_path)
    if since == 'iter_8.pth':
        assert found == whole('iter_6.pth')
    elif since == 'iter_8.pth.sha256':
        assert found == sorted(['iter_6.pth', 'iter_6.pth.sha256', 'iter_8.pth', 'last_checkpoint'])
        assert newest_checkpoint(tmp_path).path == str(tmp_path / 'iter_8.pth')


def test_a_full_disk_is_outlived_by_choice(tmp_path, filled, capsys):
    """Two checkpoints, the second a best one, are not written; then there is room again, and all is as it should."""
    filled['since'] = 'best_score_iter_8.pth'
    more = with_validation(scores=(1.0, 3.0, 2.0))
    options = dict(interval=4, on_full_disk='continue', save_best='score', rule='greater')
    runner = toy_runner(tmp_path, **more, default_hooks=dict(checkpoint=options))

    class MakeRoom(type(runner.hooks[0]).__bases__[0]):
        def before_train_iter(self, runner, **kwargs):
            if runner.iter == 9:
                assert names(tmp_path) == whole('best_score_iter_4.pth', 'iter_8.pth')
                filled.update(since=None, seen=False)

    runner.register_hook(MakeRoom())
    runner.train()
    said = capsys.readouterr().out
    assert "best_score_iter_8.pth' cannot be written (No space left on device)" in said
    assert 'Training goes on without it' in said
    # not having been kept, 3.0 is not what 2.0 is held against
    assert names(tmp_path) == whole('best_score_iter_12.pth', 'iter_12.pth')


def test_what_is_not_for_want_of_room_stops_the_run(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(atomic, '_write', fail)
    with pytest.raises(NotWrittenError, match='Read-only file system.*one that can be written to'):
        toy_runner(tmp_path, default_hooks=dict(checkpoint=dict(on_full_disk='continue'))).train()


def limited(folder):
    """A run in a process that may write no file of more than 300 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    try:
        toy_runner(folder, model=dict(weight=1)).train()
    except NotWrittenError as error:
        print(error)
        return 7


def test_files_that_may_not_be_so_large(tmp_path):
    child = Child(tmp_path, limited, tmp_path / 'run')
    assert child.end() == 7, child.text()
    assert "iter_2.pth' cannot be written (File too large); nothing of it is left" in child.text()
    assert names(tmp_path / 'run') == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', str(folder)]
    if os.getuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip('only root may mount a small file system, and not in every container')
    yield folder
    subprocess.run(['umount', '-l', str(folder)], check=True)


@pytest.mark.parametrize('choice, curves', [('stop', False), ('stop', True), ('continue', True)])
def test_a_disk_that_is_really_full(tmp_path, small_disk, choice, curves):
    """The log and the curves find no room either."""
    child = Child(tmp_path, fill, small_disk, choice, curves)
    status, said = child.end(), child.text()
    assert 'Traceback' not in said and 'Logging error' not in said and 'Exception ignored' not in said
    assert '--- full' in said
    assert status == 2, said
    (error,) = (line for line in said.splitlines() if line.startswith('error: '))
    assert 'No space left on device' in error
    if choice == 'stop':
        assert ('a file, probably in' if curves else 'iter_6.pth') in error
    else:
        missing = re.findall(r"(iter_\d+)\.pth' cannot be written .* Training goes on without it", said)
        assert set(missing) == {'iter_6', 'iter_8', 'iter_10', 'iter_12'}
        assert 'iter_12.pth' in error  # without a last one it has not succeeded
        assert 'Fill cannot write (No space left on device); training goes on' in said
    found = newest_checkpoint(small_disk / 'run')
    assert found.path.endswith('iter_4.pth') and not list((small_disk / 'run').glob('.*'))
    check_whole(small_disk / 'run' / 'iter_4.pth')


def fill(folder, choice, curves):
    """Train on the disk, which is filled after four iterations; as a tool would."""
    import argparse

    from mmengine.hooks import Hook

    from densevit.engine.cli import run_tool
    from densevit.engine.disk import naming_the_disk

    class Fill(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter > 4 and curves:
                runner.visualizer.add_scalars({f'curve {index}': 1.0 for index in range(400)})
            if runner.iter == 4:
                print('--- full')
                with open(folder / 'filler', 'wb', buffering=0) as file:
                    try:
                        while True:
                            file.write(b'x' * 4096)
                    except OSError:
                        pass

    def main(args):
        runner = toy_runner(folder / 'run', default_hooks=dict(checkpoint=dict(on_full_disk=choice)))
        runner.register_hook(Fill())
        with naming_the_disk(folder / 'run'):
            runner.train()

    parser = argparse.ArgumentParser()
    parser.set_defaults(debug=False)
    return run_tool(parser, main, [])


# ------------------------------------------------------------------------------------------------------------- kills
def write_forever(runner, newest):
    """Save a checkpoint after every iteration, and at every third a best one, until killed."""
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    if newest:
        content = read_checkpoint(newest)
        runner.train_loop._iter = content['meta']['iter']
        runner.message_hub.load_state_dict(content['message_hub'])
    hook.before_train(runner)
    if newest and runner.iter % 3 == 0:  # as the loops do with a validation that is due
        hook.after_val_epoch(runner, {'score': float(runner.iter)})
    for _ in range(1_000):
        os.write(1, f'iteration {runner.iter + 1}\n'.encode())
        runner.bare_model.layer.weight.data.fill_(runner.iter + 1)
        hook.after_train_iter(runner, 0)
        runner.train_loop._iter += 1
        if runner.iter % 3 == 0:
            hook.after_val_epoch(runner, {'score': float(runner.iter)})


def test_killed_while_writing(tmp_path):
    """Again and again, at a random moment: the checkpoint that was done last is there, or the one after it."""
    rng = random.Random(KILLS)
    folder, newest, begin, left = tmp_path / 'run', None, 0, 0
    checkpoint = dict(interval=1, max_keep_ckpts=1, save_best='score', rule='greater')
    runner = toy_runner(folder, model=dict(weight=2), default_hooks=dict(checkpoint=checkpoint))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = []
    for _ in range(KILLS):
        child = Child(tmp_path, write_forever, runner, newest)
        child.wait_for(f'iteration {begin + 2}\n')
        time.sleep(rng.uniform(0, 0.2))
        child.kill()
        assert child.process.exitcode == -signal.SIGKILL
        begun = int(re.findall(r'^iteration (\d+)$', child.text(), re.MULTILINE)[-1])
        found = newest_checkpoint(folder)
        content = read_checkpoint(found.path)
        begin = content['meta']['iter']
        assert begun - 1 <= begin <= begun and found.skipped == ()
        assert (content['state_dict']['layer.weight'] == begin).all()
        newest = found.path
        for path in folder.glob('*.pth'):
            check_whole(path)
        # at most two of each kind, and one that is not finished, none of which the next run leaves there
        assert len(list(folder.glob('iter_*.pth'))) <= 2 and len(list(folder.glob('best_*.pth'))) <= 2
        parts = list(folder.glob('.*.part'))
        left += len(parts)
        assert len(parts) <= 1
    print(f'{KILLS} kills, {begin} iterations, {left} unfinished files')
