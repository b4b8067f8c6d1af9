"""Loops that take mmengine's place, and what they say of a run that cannot go on exactly."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, LOOPS
from mmengine.runner import EpochBasedTrainLoop as MMEpochLoop
from mmengine.runner import IterBasedTrainLoop as MMIterLoop
from torch.utils.data import DataLoader, IterableDataset

from densevit.checkpoints.atomic import digest_file
from densevit.data.stream import Stream
from densevit.engine.train_loops import EpochBasedTrainLoop, IterBasedTrainLoop, exact_loop
from tests.engine.toy_run import toy_runner, with_validation
from tests.scope import scope_restored


@pytest.fixture(autouse=True)
def _scope(monkeypatch):
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: ''))
    with scope_restored():
        yield


@LOOPS.register_module(force=True)
class OwnLoop(MMIterLoop):
    pass


@pytest.mark.parametrize(
    ('loop', 'expected'),
    [
        (dict(by_epoch=True, max_epochs=2), EpochBasedTrainLoop),
        (dict(by_epoch=False, max_iters=2), IterBasedTrainLoop),
        (dict(type='EpochBasedTrainLoop', max_epochs=2), EpochBasedTrainLoop),
        (dict(type='mmengine.IterBasedTrainLoop', max_iters=2, fast_forward_on_resume=True), IterBasedTrainLoop),
        (dict(type=MMEpochLoop, max_epochs=2), EpochBasedTrainLoop),
        (dict(type='densevit.IterBasedTrainLoop', max_iters=2), 'densevit.IterBasedTrainLoop'),
        (dict(type='OwnLoop', max_iters=2), 'OwnLoop'),
    ],
)
def test_mmengines_loops_are_replaced_and_others_are_not(loop, expected):
    found = exact_loop(loop)
    assert found['type'] == expected and 'by_epoch' not in found
    assert {key: value for key, value in found.items() if key != 'type'} == {
        key: value for key, value in loop.items() if key not in ('type', 'by_epoch')
    }


def resumed(folder, capfd, epochs, number, **more):
    """Go on from a checkpoint of a finished run, and return the runner and what it has logged."""
    name = f'epoch_{number}.pth' if epochs else f'iter_{number}.pth'
    runner = toy_runner(folder / 'resumed', epochs=epochs, resume=str(folder / 'run' / name), **more)
    capfd.readouterr()
    runner.train()
    return runner, ''.join(capfd.readouterr())


def rewrite(path, content):
    """Change a checkpoint by hand."""
    torch.save(content, path)
    digest_file(path).unlink()


@pytest.fixture
def finished(tmp_path):
    def run(epochs, **more):
        toy_runner(
            tmp_path / 'run', epochs=epochs, default_hooks=dict(checkpoint=dict(max_keep_ckpts=-1)), **more
        ).train()

    return run


@pytest.mark.parametrize('epochs', [False, True])
def test_a_validation_that_was_due_is_done_once(tmp_path, finished, capfd, epochs):
    more = with_validation(interval=1 if epochs else 2)
    finished(epochs, **more)
    for number, due in ((1, True), (2, True)):
        path = tmp_path / 'run' / (f'epoch_{number}.pth' if epochs else f'iter_{number * 4}.pth')
        content = torch.load(path, weights_only=False)
        # each is written before the validation, so it was not done by then
        assert content['message_hub']['runtime_info'].get('last_validation', 0) < 4 * number
        runner, said = resumed(tmp_path, capfd, epochs, number if epochs else number * 4, **more)
        assert ('which the run before did not finish' in said) == due
        content['message_hub']['runtime_info']['last_validation'] = 4 * number  # as a checkpoint of a new best has it
        rewrite(path, content)
        runner, said = resumed(tmp_path, capfd, epochs, number if epochs else number * 4, **more)
        assert 'which the run before did not finish' not in said
        assert runner.iter == 12


def test_no_validation_is_due_in_between(tmp_path, finished, capfd):
    more = with_validation(interval=4)
    finished(False, **more)
    assert 'did not finish' not in resumed(tmp_path, capfd, False, 6, **more)[1]


def test_another_batch_is_said(tmp_path, finished, capfd):
    finished(False)
    _, said = resumed(tmp_path, capfd, False, 6, train_dataloader=dict(batch_size=2))
    assert 'resumed with 2 samples per process and iteration instead of 3: the samples to come' in said
    assert 'resumed with' not in resumed(tmp_path, capfd, False, 6)[1]


def test_epochs_of_another_length(tmp_path, finished, capfd):
    finished(True)
    runner, said = resumed(tmp_path, capfd, True, 2, train_dataloader=dict(batch_size=6))
    assert 'an epoch has 2 iterations now: going on at the beginning of this epoch, as iteration 4' in said
    assert (runner.epoch, runner.iter) == (3, 6)


def test_gradients_that_are_not_there_are_missed(tmp_path, finished, capfd):
    more = dict(optim_wrapper=dict(accumulative_counts=4))
    finished(False, **more)
    path = tmp_path / 'run' / 'iter_6.pth'
    assert 'are lost' not in resumed(tmp_path, capfd, False, 6, **more)[1]
    content = torch.load(path, weights_only=False)
    del content['gradients']
    rewrite(path, content)
    assert 'iteration 6 lies between two updates' in resumed(tmp_path, capfd, False, 6, **more)[1]
    # where no gradients are due, none are kept
    assert 'gradients' not in torch.load(tmp_path / 'run' / 'iter_8.pth', weights_only=False)


@DATASETS.register_module(force=True)
class Flow(IterableDataset):
    """Points without indices."""

    def __len__(self):
        return 50

    def __iter__(self):
        return iter([dict(inputs=torch.ones(2))] * 50)


def test_data_without_indices_are_trained_on_as_mmengine_does(tmp_path):
    runner = toy_runner(tmp_path, train_cfg=dict(max_iters=2))
    runner._train_dataloader = DataLoader(
        Flow(), batch_size=2, collate_fn=lambda samples: {'inputs': [each['inputs'] for each in samples]}
    )
    runner.train()
    assert runner.iter == 2 and not isinstance(runner.train_dataloader.batch_sampler, Stream)


def test_a_loader_that_is_built_becomes_a_stream_too(tmp_path):
    first = toy_runner(tmp_path / 'first', train_cfg=dict(max_iters=1))
    built = first.build_dataloader(first.cfg.train_dataloader, seed=4)
    runner = toy_runner(tmp_path / 'second', train_cfg=dict(max_iters=2))
    runner._train_dataloader = built
    runner.train()
    assert isinstance(runner.train_dataloader.batch_sampler, Stream) and runner.iter == 2
