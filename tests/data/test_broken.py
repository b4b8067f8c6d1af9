"""What is noted of samples that are of no use, and of the workers that load them."""

from __future__ import annotations

import gc
import os
import signal
import time

import numpy as np
import pytest
from mmengine.dataset import Compose
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from densevit.data.broken import BrokenSamples, Ledger, add_to_list, name_lost_workers, read_list
from densevit.data.loading import NamingPipeline
from densevit.errors import UserError


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('skp', "'skp': give 'stop' or 'skip'; did you mean 'skip'"),
        (dict(policy='skip', limits=0.1), "broken_samples.limits: .*did you mean 'limit'"),
        (dict(policy='skip', limit=5), 'limit=5: give a share'),
        (dict(policy='skip', limit=0), 'limit=0: give a share'),
        (dict(policy='skip', limit=True), 'limit=True: give a share'),
        (False, 'broken_samples=False: give'),
    ],
)
def test_policies_that_are_none(given, message):
    with pytest.raises(UserError, match=message):
        BrokenSamples.of(given)


def test_policies():
    assert BrokenSamples.of('skip') == BrokenSamples('skip', 0.05)
    assert BrokenSamples.of(dict(policy='skip', limit=1)) == BrokenSamples('skip', 1)
    assert BrokenSamples.of('stop').policy == 'stop'


def test_list_survives_odd_names_and_a_torn_line(tmp_path):
    file = tmp_path / 'list.jsonl'
    assert read_list(file) == {}
    odd = os.fsdecode(b'/data/\xff\xe9 a\nb.png')
    for path, reason in ((odd, 'cut short'), ('/b.png', 'gone'), (odd, 'again')):
        add_to_list(file, path, reason)
    with file.open('a') as opened:
        opened.write('{"file": "/c')
    assert read_list(file) == {odd: 'cut short', '/b.png': 'gone'}


def test_the_ledger_counts_and_notes():
    ledger = Ledger(2)
    ledger.add_steps(['Load', 'Crop', 'Load'])
    long = '/data/' + 'x' * 5000  # longer than a path can be
    for path, end in (('/a', {}), ('/b', dict(broken=True)), ('/c', dict(dropped_by='Crop')), ('/d', {})):
        ledger.begin(path)
        ledger.end(**end)
    assert ledger.counts() == {'seen': 4, 'broken': 1, 'dropped by Crop': 1}
    ledger.end(dropped_by='Flip')
    assert ledger.counts()['dropped by another step'] == 1
    ledger.begin(long)
    ledger.at_step('x' * 500)
    (note,) = ledger.notes()
    assert (note.pid, note.worker) == (os.getpid(), 2) and note.since > 0
    assert note.path == long[: len(note.path)] and len(note.path) > 4000 and set(note.step) == {'x'}


class Faulty(Dataset):
    """Each sample does what its name says, within a pipeline."""

    def __init__(self, folder, names, workers):
        self.ledger = Ledger(workers)
        self.pipeline = NamingPipeline(Compose([faulty]), ledger=self.ledger)
        self.files = [str(folder / f'{name}.png') for name in names]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.pipeline(dict(img_path=self.files[index]))['number']


def faulty(data):
    name = os.path.basename(data['img_path']).partition('.')[0]
    if name == 'sleep':
        time.sleep(3600)
    elif name == 'exit':
        os._exit(7)
    elif name.startswith('SIG') and os.getpid() != MAIN:
        os.kill(os.getpid(), getattr(signal, name))
    return dict(number=1)


MAIN = os.getpid()


def lost(folder, names, **options):
    """What is said when a loader with these samples comes to its end."""
    dataset = Faulty(folder, names, options.get('num_workers', 1))
    with pytest.raises(UserError) as caught, name_lost_workers():
        iterator = iter(DataLoader(dataset, batch_size=1, multiprocessing_context='fork', **options))
        while options.get('timeout') and not any(note.step for note in dataset.ledger.notes()):
            time.sleep(0.01)  # a worker has come to its step
        for _ in iterator:
            pass
    message = str(caught.value)
    del caught, iterator  # and with them the workers
    gc.collect()
    return message


def test_a_killed_worker_is_named_with_its_sample(tmp_path):
    Image.fromarray(np.zeros((30, 50), np.uint8)).save(tmp_path / 'SIGKILL.png')
    message = lost(tmp_path, ['good', 'good', 'SIGKILL', 'good'], num_workers=1)
    assert message.startswith('worker 0 (pid ') and ' was killed by signal 9 (Killed) while loading ' in message
    assert f"'{tmp_path}/SIGKILL.png' (50 x 30 pixels), in faulty; most often the machine has run out" in message


def test_a_worker_that_ends_is_named_with_its_sample(tmp_path):
    message = lost(tmp_path, ['good', 'exit'], num_workers=2)
    assert 'worker 1 (pid ' in message and 'ended' in message and f"while loading '{tmp_path}/exit.png'" in message


def test_a_worker_that_hangs_is_named_with_its_sample(tmp_path, monkeypatch):
    monkeypatch.setattr('torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL', 0.1)  # how long its end is waited for
    message = lost(tmp_path, ['sleep'], num_workers=1, timeout=0.2)
    assert message.startswith('no data came for 0.2 s: worker ')
    assert f"s while loading '{tmp_path}/sleep.png', in faulty; look at" in message and 'timeout' in message


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match='CUDA error') as caught, name_lost_workers():
        raise RuntimeError('CUDA error: an illegal memory access')
    assert not isinstance(caught.value, UserError)
    for text in ('killed by signal: Segmentation fault. ', 'exit code 7', 'killed by signal: Bus error. It is'):
        with pytest.raises(UserError) as caught, name_lost_workers():
            raise RuntimeError(f'DataLoader worker (pid 1) is {text}')
        advice = 'shared memory' if 'Bus' in text else 'open that file alone'
        assert advice in str(caught.value)
    with pytest.raises(UserError, match='a worker .pid 1. was killed by signal 9 .Killed. before its first sample'):
        with name_lost_workers():
            raise RuntimeError('DataLoader worker (pid 1) is killed by signal: Killed. ')
