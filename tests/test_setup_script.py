"""The set-up of the environment: when it is made, when it is kept, and what stops it. Installs nothing."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'tools' / 'setup_env.py'


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script as a module, with a cache directory of its own and an installation that only makes a file."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    spec = importlib.util.spec_from_file_location('setup_env', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'SPACE', 0)

    def build(env: Path, hold: tuple[int, ...]) -> None:
        with open(tmp_path / 'builds', 'a') as file:
            file.write(f'{env.name}\n')
        python = module.python_of(env)
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)

    monkeypatch.setattr(module, 'build', build)
    return module


def builds(tmp_path: Path) -> int:
    """How many times an environment was built."""
    file = tmp_path / 'builds'
    return len(file.read_text().splitlines()) if file.exists() else 0


class TestName:
    def write(self, tmp_path: Path, text: str) -> list[Path]:
        file = tmp_path / 'requirements.txt'
        file.write_text(text)
        return [file]

    def test_a_requirement_changes_it_and_a_comment_does_not(self, script, tmp_path):
        first = script.environment_folder(self.write(tmp_path, 'torch>=2.11\n'))
        assert script.environment_folder(self.write(tmp_path, '# why\n\ntorch>=2.11  # so\n')) == first
        assert script.environment_folder(self.write(tmp_path, 'torch>=2.12\n')) != first

    def test_another_python_changes_it(self, script, tmp_path, monkeypatch):
        first = script.environment_folder()
        monkeypatch.setattr(sys, 'version_info', (3, 9, 1))
        assert script.environment_folder() != first

    def test_it_lies_in_the_cache_directory(self, script, tmp_path, monkeypatch):
        assert script.environment_folder().parent == tmp_path / 'cache' / 'densevit'
        monkeypatch.delenv('XDG_CACHE_HOME')
        assert script.environment_folder().parent == Path.home() / '.cache' / 'densevit'

    def test_no_requirement_files_is_one_sentence(self, script, tmp_path):
        with pytest.raises(script.SetupError, match='none.txt is missing'):
            script.environment_folder([tmp_path / 'none.txt'])


class TestKeeping:
    def test_a_finished_one_is_kept(self, script, tmp_path, capsys):
        env = script.environment_folder()
        script.set_up(env)
        script.set_up(env)
        assert builds(tmp_path) == 1
        assert str(env) in capsys.readouterr().out.splitlines()[-1]

    def test_an_interrupted_one_is_made_anew(self, script, tmp_path, monkeypatch):
        env = script.environment_folder()
        whole = script.build

        def interrupted(env, hold):
            whole(env, hold)
            (env / 'half').touch()
            raise KeyboardInterrupt

        monkeypatch.setattr(script, 'build', interrupted)
        with pytest.raises(KeyboardInterrupt):
            script.set_up(env)
        assert not script.is_finished(env)
        monkeypatch.setattr(script, 'build', whole)
        script.set_up(env)
        assert script.is_finished(env)
        assert not (env / 'half').exists()

    def test_one_whose_python_was_removed_is_made_anew(self, script, tmp_path):
        env = script.environment_folder()
        script.set_up(env)
        script.python_of(env).unlink()
        script.set_up(env)
        assert builds(tmp_path) == 2

    @pytest.mark.skipif(sys.platform == 'win32', reason='fork')
    def test_two_at_the_same_time_build_once(self, script, tmp_path, monkeypatch):
        env = script.environment_folder()
        whole = script.build
        monkeypatch.setattr(script, 'build', lambda env, hold: (time.sleep(0.5), whole(env, hold)))
        fork = multiprocessing.get_context('fork')
        processes = [fork.Process(target=script.set_up, args=(env,)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(30)
        assert [process.exitcode for process in processes] == [0, 0]
        assert builds(tmp_path) == 1

    def test_clean_removes_all_of_them(self, script, tmp_path):
        env = script.environment_folder()
        script.set_up(env)
        script.clean()
        assert list(env.parent.iterdir()) == []


class TestFailure:
    def test_a_full_disk_is_said_before_anything_is_written(self, script, tmp_path, monkeypatch):
        monkeypatch.setattr(script, 'SPACE', 1e18)
        with pytest.raises(script.SetupError, match='GB left'):
            script.set_up(script.environment_folder())
        assert builds(tmp_path) == 0

    def test_a_failing_step_shows_the_end_of_its_log(self, script, tmp_path, capsys):
        log = tmp_path / 'log'
        code = 'import sys; print("No matching distribution"); sys.exit(3)'
        with pytest.raises(script.SetupError, match='"2/4 install" failed with status 3'):
            script.run_step('2/4 install', [sys.executable, '-c', code], log, ())
        assert '| No matching distribution' in capsys.readouterr().out

    def test_a_step_does_not_see_the_packages_of_the_caller(self, script, tmp_path, monkeypatch):
        monkeypatch.setenv('PYTHONPATH', '/elsewhere')
        code = 'import os, sys; sys.exit("PYTHONPATH" in os.environ)'
        script.run_step('look', [sys.executable, '-c', code], tmp_path / 'log', ())

    @pytest.mark.parametrize(('present', 'module'), [('ensurepip', 'venv'), ('virtualenv', 'virtualenv')])
    def test_what_makes_the_environment(self, script, tmp_path, monkeypatch, present, module):
        monkeypatch.setattr(script, 'find_spec', lambda name: name == present or None)
        assert script.venv_command(tmp_path) == [sys.executable, '-m', module, tmp_path]

    def test_a_python_that_cannot_make_environments(self, script, tmp_path, monkeypatch):
        monkeypatch.setattr(script, 'find_spec', lambda name: None)
        with pytest.raises(script.SetupError, match='install the package python3-venv'):
            script.venv_command(tmp_path)

    @pytest.mark.skipif(sys.platform == 'win32', reason='flock')
    def test_a_step_that_outlives_a_killed_set_up_keeps_the_lock(self, script, tmp_path):
        env = script.environment_folder()
        env.parent.mkdir(parents=True)
        step = [sys.executable, '-c', 'import time; time.sleep(1.5)']

        def killed() -> None:
            with script.locked(env) as hold:
                script.run_step('long', step, tmp_path / 'log', hold)

        process = multiprocessing.get_context('fork').Process(target=killed)
        process.start()
        time.sleep(0.7)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        started = time.monotonic()
        with script.locked(env):
            assert time.monotonic() - started > 0.2, 'did not wait for the step'


@pytest.mark.skipif(shutil.which('make') is None, reason='needs make')
class TestMake:
    """The Makefile's choice of a Python, with an environment that is there already."""

    def make(self, tmp_path: Path, *arguments: str, path: str = os.environ['PATH']) -> subprocess.CompletedProcess:
        environ = {'PATH': path, 'XDG_CACHE_HOME': str(tmp_path / 'cache'), 'HOME': str(tmp_path)}
        command = [shutil.which('make'), '-C', str(ROOT), '--no-print-directory', *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)

    def test_without_a_target_it_lists_the_commands(self, tmp_path):
        done = self.make(tmp_path)
        for target in ('demo', 'test', 'lint', 'doctor'):
            assert f'make {target} ' in done.stdout

    def test_the_environment_is_found_and_said(self, script, tmp_path):
        env = script.environment_folder()
        script.set_up(env)
        done = self.make(tmp_path, 'env', f'PYTHON={sys.executable}')
        assert (done.returncode, done.stdout) == (0, f'environment: {env}\n')

    def test_an_unsuitable_python3_is_passed_over(self, script, tmp_path):
        env = script.environment_folder()
        script.set_up(env)
        programs = tmp_path / 'bin'
        programs.mkdir()
        (programs / 'python3').write_text('#!/bin/sh\nexit 1\n')
        (programs / 'python3').chmod(0o755)
        good = programs / 'python3.12'  # the name is only where it looks
        good.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        good.chmod(0o755)
        (programs / 'sh').symlink_to(shutil.which('sh'))
        done = self.make(tmp_path, 'env', path=str(programs))
        assert (done.returncode, done.stdout) == (0, f'environment: {env}\n'), done.stderr

    def test_no_suitable_python_is_one_sentence(self, tmp_path):
        done = self.make(tmp_path, 'test', 'PYTHON=/no/such/python')
        assert done.returncode != 0
        assert 'needs Python 3.10 to 3.13' in done.stderr
        assert 'make test PYTHON=/path/to/python' in done.stderr

    def test_the_command_runs_in_it_with_the_clone_alone(self, script, tmp_path):
        env = script.environment_folder()
        script.set_up(env)
        code = 'import json, os, sys; print(json.dumps([os.environ["PYTHONPATH"], sys.argv[1:]]))'
        done = subprocess.run(
            [sys.executable, str(SCRIPT), '--run', '-c', code, '-q', '--json'],
            env={**os.environ, 'PYTHONPATH': '/elsewhere'},
            capture_output=True,
            text=True,
        )
        assert json.loads(done.stdout.splitlines()[-1]) == [str(ROOT), ['-q', '--json']]


def test_ci_runs_what_the_makefile_has():
    lines = (ROOT / '.ci' / 'run').read_text().splitlines()
    assert 'set -euo pipefail' in lines
    assert {'make lint', 'make test'} <= set(lines)
    assert os.access(ROOT / '.ci' / 'run', os.X_OK)
