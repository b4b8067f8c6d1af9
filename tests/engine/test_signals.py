"""Signals that ask a training to stop, sent to real processes."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import runpy
import signal
import threading
import time

import pytest

from densevit.engine import signals
from densevit.engine.cli import run_tool
from densevit.engine.signals import SIGNALS, Stopped, StopSignals, shield_worker
from tests.engine.toy_run import Child

NUMBERS = pytest.mark.parametrize(
    'number, status', [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]
)


@NUMBERS
def test_at_once_while_there_is_nothing_to_save(capsys, number, status):
    parser = argparse.ArgumentParser()
    parser.set_defaults(debug=False)

    def main(args):
        with StopSignals():
            os.kill(os.getpid(), number)
            pytest.fail('went on')

    before = [signal.getsignal(each) for each in SIGNALS]
    assert run_tool(parser, main, []) == status
    assert capsys.readouterr().err == f'stopped by {number.name}: there was nothing to save yet.\n'
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_run_that_takes_steps_is_asked(capfd, monkeypatch):
    with StopSignals() as asked:
        asked.patient = True
        os.kill(os.getpid(), signal.SIGUSR1)
        assert asked.received == signal.SIGUSR1
        # after a warning, the end; then its echo, as torchrun sends it
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.received == signal.SIGTERM
        monkeypatch.setattr(signals, '_ECHO', 0.0)
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Stopped, match='SIGINT: at once, by a second signal') as caught:
            os.kill(os.getpid(), signal.SIGINT)
    assert caught.value.code == 130
    assert capfd.readouterr().err == 'SIGUSR1: finishing this iteration, then saving; a second one stops at once.\n'


def test_what_was_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_system_with_fewer_signals(monkeypatch):
    """Windows has no SIGUSR1, and macOS no sigwaitinfo."""
    for name in ('SIGUSR1', 'pthread_sigmask', 'sigwaitinfo'):
        monkeypatch.delattr(signal, name)
    there = runpy.run_path(signals.__file__)
    with there['StopSignals']() as asked:
        asked.patient = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.received == signal.SIGTERM
    before, begun = signal.getsignal(signal.SIGINT), []
    try:
        there['shield_worker'](begun.append, 3)
        assert begun == [3] and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_python_takes_no_handlers():
    seen = []

    def enter():
        with StopSignals() as asked:
            seen.append(asked.received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None]


def wait(ready):
    ready.set()
    time.sleep(600)


def end_children():
    """End a forked process by SIGTERM within the context, as process pools do."""
    context = multiprocessing.get_context('fork')
    with StopSignals():
        ready = context.Event()
        process = context.Process(target=wait, args=(ready,))
        process.start()
        ready.wait()
        process.terminate()
        process.join()
        print('ended by', -process.exitcode)


def test_forked_processes_are_not_concerned(tmp_path):
    child = Child(tmp_path, end_children)
    assert child.end() == 0 and child.text() == 'ended by 15\n'


def work(number, ready):
    shield_worker(lambda worker: print('worker', worker, flush=True), number)
    ready.set()
    time.sleep(600)


def lead_worker():
    context = multiprocessing.get_context('fork')
    for number in SIGNALS:  # it is for the worker to get these
        signal.signal(number, signal.SIG_IGN)
    ready = context.Event()
    process = context.Process(target=work, args=(7, ready))
    process.start()
    ready.wait()
    print('ready', flush=True)
    while signal.sigtimedwait([signal.SIGUSR2], 0) is None:
        time.sleep(0.01)
    print('alive', process.is_alive())
    process.terminate()
    process.join()
    print('ended with', process.exitcode)


def with_mask():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    lead_worker()


def test_a_data_worker_obeys_its_parent_only(tmp_path):
    child = Child(tmp_path, with_mask)
    child.wait_for('worker 7', 'ready')
    for number in SIGNALS:
        child.send(number)
    time.sleep(0.2)  # to die in, if it were to
    os.kill(child.process.pid, signal.SIGUSR2)
    assert child.end() == 0
    assert child.text().splitlines()[-2:] == ['alive True', 'ended with 0']
