#!/usr/bin/env python3
"""Set up the virtual environment that `make` runs densevit in, or find the one that is already there.

1. python tools/setup_env.py                     set up, print where
2. python tools/setup_env.py --run -m pytest     set up, then run its Python with these arguments
3. python tools/setup_env.py --clean             remove all of densevit's environments

The environment holds the dependencies only and lies in the user's cache directory, under a name made from the
requirement files, the Python version and the platform: every clone with the same requirements shares it. The
package itself comes from this clone, through PYTHONPATH. Needs nothing but Python's standard library.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

try:
    import fcntl
except ImportError:  # not POSIX: two set-ups at the same time are not kept apart there
    fcntl = None

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = tuple(ROOT / 'requirements' / f'{name}.txt' for name in ('runtime', 'mminstall', 'tests'))
PYTHONS = ((3, 10), (3, 13))  # oldest and newest supported
RECIPE = 1  # raise it when this script installs the same requirements differently
SPACE = 8e9  # bytes that an environment takes at most, most of it CUDA libraries that torch brings
MARKER = 'densevit-env.json'  # written last: an environment without it was interrupted
PROGRESS = ('Collecting', 'Downloading', 'Using cached', 'Building', 'Installing')  # how pip's lines begin
TAIL = 15  # lines of the log that a failure shows

VERSION_OF_HEADLESS = "from importlib.metadata import version; print(version('opencv-python-headless'))"
# Runs in the new environment. A broken download shows here, not in the middle of a training.
CHECK = """
import cv2, mmcv, mmdet, mmengine, mmseg, torch, torchvision
torchvision.ops.nms(torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.ones(1), 0.5)
gui = [line.split()[1] for line in cv2.getBuildInformation().splitlines() if line.strip().startswith('GUI:')]
assert gui == ['NONE'], f'OpenCV is a build with windows: {gui}'
"""


class SetupError(Exception):
    """One sentence for the user: what went wrong and what to do."""


def cache_folder() -> Path:
    """Where the environments lie: ``$XDG_CACHE_HOME/densevit``, by default ``~/.cache/densevit``."""
    root = os.environ.get('XDG_CACHE_HOME', '')
    return (Path(root) if os.path.isabs(root) else Path.home() / '.cache') / 'densevit'


def requirement_lines(files: Sequence[Path]) -> list[str]:
    """The requirements of ``files`` without comments, so that a new comment rebuilds nothing."""
    try:
        lines = [line.partition(' #')[0].strip() for file in files for line in file.read_text('utf-8').splitlines()]
    except FileNotFoundError as error:
        raise SetupError(f'{error.filename} is missing: run this from a clone of the repository.') from None
    return [line for line in lines if line and not line.startswith('#')]


def environment_folder(files: Sequence[Path] = REQUIREMENTS) -> Path:
    """The folder of the environment that fits these requirements, this Python and this platform."""
    identity = [RECIPE, sys.implementation.name, sys.version_info[:2], sys.platform, platform.machine()]
    digest = hashlib.sha256(json.dumps([identity, requirement_lines(files)]).encode()).hexdigest()
    return cache_folder() / f'env-{digest[:12]}'


def python_of(env: Path) -> Path:
    """The Python of the environment ``env``."""
    return env / 'Scripts' / 'python.exe' if os.name == 'nt' else env / 'bin' / 'python'


def is_finished(env: Path) -> bool:
    """Whether ``env`` was set up to the end and the Python that it was made from still exists."""
    return (env / MARKER).is_file() and os.access(python_of(env), os.X_OK)


@contextmanager
def locked(env: Path) -> Iterator[tuple[int, ...]]:
    """Keep other set-ups of ``env`` waiting; yields what a child process needs to hold the lock, too.

    A killed set-up may leave its pip running: as pip holds the lock too, the next set-up waits for it.
    """
    with open(env.with_name(f'{env.name}.lock'), 'w') as file:
        if fcntl is None:
            yield ()
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f'another set-up works on {env}: waiting for it')
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # network file systems without locks
            say(f'{file.name} cannot be locked ({error.strerror}): do not start two set-ups at the same time')
        yield (file.fileno(),)


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def run_step(title: str, command: Sequence[str | Path], log: Path, hold: tuple[int, ...]) -> None:
    """Run ``command`` with its output in ``log``, and show that and for how long it is at work."""
    live = sys.stdout.isatty()
    started = shown = time.monotonic()
    say(f'  {title} ...')
    environ = {name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'PYTHONHOME')}
    environ['PIP_USER'] = '0'  # a user's setting that virtual environments refuse
    with open(log, 'ab') as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            pass_fds=hold,
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                now = time.monotonic()
                if now - shown >= (1 if live else 30):
                    shown = now
                    text = f'    {now - started:4.0f} s  {last_line(log)[:80]}'
                    print(f'\r\033[K{text}' if live else text, end='' if live else '\n', flush=True)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if live:
        print('\r\033[K', end='')
    if process.returncode:
        tail = log.read_text('utf-8', 'replace').splitlines()[-TAIL:]
        say('\n'.join(f'    | {line}' for line in tail))
        raise SetupError(
            f'"{title}" failed with status {process.returncode}: see the lines above, all of them in '
            f'{log}, often a missing network or a full disk; the same command starts again.'
        )


def last_line(log: Path) -> str:
    """What pip said last about what it does, as it is silent while it unpacks."""
    lines = [line.strip() for line in log.read_text('utf-8', 'replace').splitlines()]
    return next((line for line in reversed(lines) if line.startswith(PROGRESS)), '')


def venv_command(env: Path) -> list[str | Path]:
    """The command that makes an empty environment with pip in it."""
    for module, needed in (('venv', 'ensurepip'), ('virtualenv', 'virtualenv')):
        if find_spec(needed):
            return [sys.executable, '-m', module, env]
    raise SetupError(
        f'{sys.executable} lacks ensurepip and cannot make virtual environments: install the package '
        f'python3-venv (Debian, Ubuntu) or virtualenv, or name another Python: make PYTHON=/path/to/python.'
    )


def build(env: Path, hold: tuple[int, ...]) -> None:
    """Make the environment ``env`` from nothing."""
    log = env.with_name(f'{env.name}.log')
    log.write_bytes(b'')
    pip = [python_of(env), '-m', 'pip', 'install', '--disable-pip-version-check', '--progress-bar=off']
    run_step('1/4 making a virtual environment', venv_command(env), log, hold)
    # --use-pep517: an old pip would otherwise build mmcv where torch is, and compile for half an hour.
    files = [part for file in REQUIREMENTS for part in ('-r', file)]
    title = f'2/4 installing {len(requirement_lines(REQUIREMENTS))} packages and what they need, about 6 GB'
    run_step(title, [*pip, '--use-pep517', *files], log, hold)
    # opencv-python and opencv-python-headless, which the mm packages ask for, share the folder cv2/, and what
    # comes last is in place. The metadata of the other stays, so that no later pip fetches it again.
    command = [python_of(env), '-c', VERSION_OF_HEADLESS]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    headless = ['--force-reinstall', '--no-deps', f'opencv-python-headless=={version}']
    run_step('3/4 putting the headless OpenCV in place', [*pip, *headless], log, hold)
    run_step('4/4 checking that it works', [python_of(env), '-c', CHECK], log, hold)


def set_up(env: Path) -> None:
    """Make ``env`` unless it is there and finished; what an interrupted set-up left is made anew."""
    if is_finished(env):
        say(f'environment: {env}')
        return
    env.parent.mkdir(parents=True, exist_ok=True)
    with locked(env) as hold:
        if is_finished(env):  # somebody else finished it while we waited
            say(f'environment: {env}')
            return
        if env.exists():
            say(f'{env} was not finished: starting again')
            shutil.rmtree(env)
        free = shutil.disk_usage(env.parent).free
        if free < SPACE:
            raise SetupError(
                f'the environment takes {SPACE / 1e9:.0f} GB and {env.parent} has {free / 1e9:.1f} GB left: '
                f'make room, or set XDG_CACHE_HOME to a folder on another disk.'
            )
        say(f'setting up {env} (Python {platform.python_version()}), once, in a few minutes')
        started = time.monotonic()
        build(env, hold)
        seconds = round(time.monotonic() - started)
        marker = env / f'{MARKER}.part'
        marker.write_text(json.dumps({'seconds': seconds, 'requirements': requirement_lines(REQUIREMENTS)}, indent=1))
        marker.replace(env / MARKER)
    say(f'environment: {env} (set up in {seconds} s)')
    others = len([folder for folder in env.parent.glob('env-*') if folder.is_dir()]) - 1
    if others:
        say(f'{others} more of other requirements or Pythons beside it; `make clean-env` removes all of them')


def clean() -> None:
    """Remove all environments, finished or not."""
    for path in sorted(cache_folder().glob('env-*')):
        say(f'removing {path}')
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def run(env: Path, arguments: Sequence[str]) -> None:
    """Become the Python of ``env`` with ``arguments``; densevit comes from this clone."""
    python = python_of(env)
    environ = dict(os.environ, PYTHONPATH=str(ROOT), VIRTUAL_ENV=str(env), PYTHONNOUSERSITE='1')
    environ['PATH'] = os.pathsep.join([str(python.parent), environ.get('PATH', os.defpath)])
    environ.pop('PYTHONHOME', None)
    os.execve(python, [str(python), *arguments], environ)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0], epilog='`make help` lists what uses this.')
    parser.add_argument('--clean', action='store_true', help='remove all environments of densevit instead')
    parser.add_argument(
        '--run',
        nargs=argparse.REMAINDER,
        default=[],
        metavar='ARG',
        help="then run the environment's Python with these arguments",
    )
    return parser.parse_args(arguments)


def main() -> int:
    args = parse_args()
    try:
        if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
            raise SetupError(
                f'this is Python {platform.python_version()}, and densevit needs 3.10 to 3.13: '
                f'make PYTHON=/path/to/python.'
            )
        if args.clean:
            clean()
            return 0
        env = environment_folder()
        set_up(env)
    except (SetupError, OSError) as error:
        print(f'setup_env: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('setup_env: interrupted; the same command starts again.', file=sys.stderr)
        return 130
    if args.run:
        run(env, args.run)
    return 0


if __name__ == '__main__':
    sys.exit(main())
