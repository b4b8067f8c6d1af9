"""Processes that are started here, of a few lines of Python each."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from densevit.engine import launch as module
from densevit.engine.launch import launch
from densevit.errors import UserError

HEAD = 'import os, signal, sys, time; rank = int(os.environ["RANK"])\n'


def program(code: str) -> list[str]:
    return [sys.executable, '-S', '-c', HEAD + code]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(module.torch.cuda, 'device_count', lambda: 0)


def test_each_knows_its_number_and_a_common_port(tmp_path):
    code = f"""
names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT', 'OMP_NUM_THREADS')
open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(' '.join(os.environ[name] for name in names))
"""
    assert launch(program(code), 3) == 0
    said = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [each[:3] for each in said] == [[str(rank), str(rank), '3'] for rank in range(3)]
    assert len({tuple(each[3:]) for each in said}) == 1
    assert said[0][3] == '127.0.0.1' and int(said[0][4]) > 0 and int(said[0][5]) >= 1


def test_a_killed_process_ends_the_others_and_is_named(capfd, monkeypatch):
    monkeypatch.setattr(module, '_GRACE', 0.5)
    begin = time.monotonic()
    status = launch(program('rank or os.kill(os.getpid(), signal.SIGKILL); time.sleep(600)'), 2)
    assert status == 128 + signal.SIGKILL
    assert time.monotonic() - begin < 60
    error = capfd.readouterr().err
    assert error.startswith('error: process 0 of 2 was killed by SIGKILL, as the system does where memory runs out')
    assert '--resume' in error and error.count('\n') == 1


def test_a_process_that_heeds_no_signal_is_killed(monkeypatch):
    monkeypatch.setattr(module, '_GRACE', 0.5)
    code = 'signal.signal(signal.SIGTERM, signal.SIG_IGN); rank and time.sleep(600); time.sleep(1); sys.exit(3)'
    assert launch(program(code), 2) == 3


def test_signals_reach_all_and_the_status_is_theirs():
    code = 'signal.signal(signal.SIGUSR1, lambda *_: sys.exit(138)); time.sleep(600)'
    threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    before = signal.getsignal(signal.SIGUSR1)
    assert launch(program(code), 2) == 138
    assert signal.getsignal(signal.SIGUSR1) is before


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(module.torch.cuda, 'device_count', lambda: 2)
    with pytest.raises(UserError, match='--processes 4: .* shows 2'):
        launch(program(''), 4)
