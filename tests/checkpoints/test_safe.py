"""No file runs code: not read by us, and not by what mmengine and torch have for reading, while a tool of ours runs."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path

import mmengine.runner.checkpoint as theirs
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import PretrainedInit
from torch import nn

from densevit.checkpoints import CheckpointError, load_weights, read_checkpoint, read_state_dict
from densevit.checkpoints.safe import guard
from tests.checkpoints.hostile import Bomb, hostile
from tests.fresh import run_forked

ORIGINAL = torch.load


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / 'w.pth'


@pytest.fixture
def mark(file) -> Path:
    return hostile(file, {'state_dict': nn.Linear(2, 3).state_dict()})


# -------------------------------------------------------------------------------------- our own functions
OURS = {
    'read_checkpoint': read_checkpoint,
    'read_state_dict': read_state_dict,
    'load_weights': lambda path, **options: load_weights(nn.Linear(2, 3), path, **options),
}


@pytest.mark.parametrize('read', OURS.values(), ids=OURS)
def test_ours_refuse_and_trust_opens(file, mark, read):
    with pytest.raises(CheckpointError) as caught:
        read(file)
    assert not mark.exists()
    message = str(caught.value)
    assert str(file) in message and '--trust-checkpoint' in message and 'asks for os.makedirs' in message
    assert message.count('. ') == 0 and '\n' not in message
    read(file, trust=True)
    assert mark.exists()


def test_files_as_torch_wrote_them_before_1_6(file):
    mark = file.with_name('ran')
    torch.save({'x': Bomb(mark)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match='--trust-checkpoint'):
        read_checkpoint(file)
    assert not mark.exists()


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('protocol', range(6))
def test_plain_pickles_of_any_protocol(file, protocol):
    mark = file.with_name('ran')
    file.write_bytes(pickle.dumps({'x': Bomb(mark)}, protocol))
    with pytest.raises(CheckpointError, match='--trust-checkpoint'):
        read_checkpoint(file)
    assert not mark.exists()


def test_what_the_process_has_allowed_does_not_count(file, mark):
    """mmengine allows the plain getattr around its own reading."""
    before = set(torch.serialization.get_safe_globals())
    allowed = [getattr, os.makedirs]
    with torch.serialization.safe_globals(allowed):
        with pytest.raises(CheckpointError):
            read_checkpoint(file)
        assert set(torch.serialization.get_safe_globals()) == before | set(allowed)
    assert not mark.exists()


def test_what_the_environment_asks_for_does_not_count(file, mark, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    with pytest.raises(CheckpointError):
        read_checkpoint(file)
    assert not mark.exists()


class Reach:
    """Unpickled, an attribute of something that is allowed, but not that attribute."""

    def __init__(self, owner, name) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


@pytest.mark.parametrize('name', ['__init__', '__globals__', '_log'])
def test_getattr_reaches_the_methods_of_a_log_only(file, name):
    torch.save({'state_dict': {}, 'x': Reach(HistoryBuffer, name)}, file)
    with pytest.raises(CheckpointError, match='refused'):
        read_checkpoint(file)


def test_harmless_contents_are_read(file):
    content = {
        'args': argparse.Namespace(lr=0.1), 'array': np.arange(3, dtype='>f8'), 'names': np.array(['a', 'bc']),
        'number': np.float64(2.5), 'flag': np.bool_(True), 'log': HistoryBuffer([1.5], [1]), 'w': torch.ones(2),
    }  # fmt: skip
    torch.save(content, file)
    found = read_checkpoint(file)
    assert found['args'] == content['args'] and found['log'].mean() == 1.5 and torch.equal(found['w'], content['w'])
    for name in ('array', 'names', 'number', 'flag'):
        assert np.array_equal(found[name], content[name]), name


# ------------------------------------------------------------------------------- theirs, inside of a tool
def _from_model_zoo(path: Path):
    home = path.parent / 'home'
    home.mkdir(exist_ok=True)
    (home / 'open_mmlab.json').write_text(json.dumps({'evil': str(path)}))
    return theirs.CheckpointLoader.load_checkpoint('open-mmlab://evil')


THEIRS = {
    'torch.load': lambda path: torch.load(path),  # looked up when it is called
    'weights_only=False': lambda path: torch.load(path, weights_only=False),
    'open file': lambda path: torch.load(path.open('rb'), 'cpu', weights_only=False),
    'mmengine load_checkpoint': lambda path: theirs.load_checkpoint(nn.Linear(2, 3), str(path)),
    'mmengine CheckpointLoader': lambda path: theirs.CheckpointLoader.load_checkpoint(str(path)),
    'mmengine Pretrained': lambda path: PretrainedInit(str(path))(nn.Linear(2, 3)),
    'mmengine Pretrained, prefix': lambda path: PretrainedInit(str(path), prefix='a')(nn.Linear(2, 3)),
    'mmengine URL': lambda path: theirs.load_from_http(path.as_uri(), model_dir=str(path.parent / 'hub')),
    'mmengine model zoo': _from_model_zoo,
    'torch.hub': lambda path: torch.hub.load_state_dict_from_url(path.as_uri(), str(path.parent / 'hub')),
}


@pytest.mark.parametrize('forced', [False, True], ids=['', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'])
@pytest.mark.parametrize('read', THEIRS.values(), ids=THEIRS)
def test_theirs_refuse_and_trust_opens(tmp_path, monkeypatch, read, forced):
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'home'))
    if forced:
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    file = tmp_path / 'w.pth'
    mark = hostile(file, {'state_dict': {f'a.{n}': t for n, t in nn.Linear(2, 3).state_dict().items()}})
    with guard():
        with pytest.raises(CheckpointError, match='--trust-checkpoint'):
            read(file)
        assert not mark.exists()
        with pytest.raises(CheckpointError):
            read_checkpoint(file)
    with guard(trust=True):
        read(file)
        assert mark.exists()
        mark.rmdir()
        read_checkpoint(file)  # ours too, without being asked one by one
        assert mark.exists()


def test_without_the_guard_mmengine_runs_it(file, mark):
    """What the guard is for; once mmengine stops doing so, less of it will do."""
    theirs.load_checkpoint(nn.Linear(2, 3), str(file))
    assert mark.exists()


def test_guard_is_put_back(file, mark):
    assert torch.load is ORIGINAL
    with pytest.raises(ZeroDivisionError), guard(trust=True):
        assert torch.load is not ORIGINAL
        raise ZeroDivisionError
    assert torch.load is ORIGINAL
    with pytest.raises(CheckpointError):
        read_checkpoint(file)
    assert not mark.exists()


def test_imports_leave_torch_and_mmengine_alone():
    printed = run_forked(
        """
        import torch, mmengine.runner.checkpoint as theirs
        before = torch.load, vars(theirs).copy()
        import densevit, densevit.checkpoints.safe, densevit.backbones.patchconvnet, densevit.engine.runner
        print(torch.load is before[0], vars(theirs) == before[1], getattr in torch.serialization.get_safe_globals())
        """
    )
    assert printed.endswith('True True False')


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.int64, torch.complex64, torch.bool])
def test_tensors_still_go_through_a_pickle(dtype):
    """As results do from process to process: torch reads their storage with torch.load."""
    tensor = torch.zeros(3, dtype=dtype)
    with guard():
        assert pickle.loads(pickle.dumps(tensor)).dtype == dtype
