"""What travels: the source distribution, the wheel made from it, and what an installed wheel finds."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.fresh import ROOT, run_forked

FILES = (
    'setup.cfg', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'README.md', 'requirements', 'densevit',
    'configs', 'tools', 'model-index.yml',
)  # fmt: skip


def build(kind: str, source: Path, target: Path) -> Path:
    """Build ``kind``, sdist or wheel, as pip does, but with the setuptools that is here."""
    target.mkdir(exist_ok=True)
    code = f'from setuptools import build_meta; print(build_meta.build_{kind}({str(target)!r}))'
    done = subprocess.run([sys.executable, '-c', code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """A wheel, built from a source distribution, built from a copy of what git would hold."""
    pytest.importorskip('setuptools', minversion='70.1')
    folder = tmp_path_factory.mktemp('build')
    source = folder / 'source'
    source.mkdir()
    for name in FILES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__', 'work_dirs'))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    sdist = build('sdist', source, folder / 'sdist')
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / 'unpacked')
    return build('wheel', next((folder / 'unpacked').iterdir()), folder / 'wheel')


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory) -> Path:
    """A folder for PYTHONPATH that holds the wheel's content."""
    folder = tmp_path_factory.mktemp('installed')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def relative_files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts and 'work_dirs' not in path.parts
    }


@pytest.mark.parametrize('name', ['configs', 'tools'])
def test_every_config_and_tool_is_in_the_wheel(installed, name):
    ours = relative_files(ROOT / name)
    assert ours, f'{name}/ is empty'
    assert relative_files(installed / 'densevit' / '.mim' / name) == ours


def test_the_index_of_the_configs_is_in_the_wheel_with_all_that_it_imports(installed):
    index = installed / 'densevit' / '.mim' / 'model-index.yml'
    assert index.read_text() == (ROOT / 'model-index.yml').read_text()
    imported = yaml.safe_load(index.read_text())['Import']
    assert len(imported) == len(list(ROOT.glob('configs/*/metafile.yml'))) >= 6
    assert all((index.parent / path).is_file() for path in imported)


def test_every_module_and_nothing_else_is_in_the_wheel(installed):
    shipped = {name for name in relative_files(installed / 'densevit') if not name.startswith('.mim/')}
    ours = {name for name in relative_files(ROOT / 'densevit') if name.endswith(('.py', '.j2', '.css', '.js'))}
    assert ours <= shipped
    assert {'pages/base.css', 'pages/base.js', 'pages/templates/base.html.j2'} <= shipped
    assert {path.name.partition('-')[0] for path in installed.iterdir()} == {'densevit'}, 'tests or more beside it'


def test_metadata(installed):
    info = next(installed.glob('*.dist-info'))
    metadata = email.message_from_string((info / 'METADATA').read_text('utf-8'))
    version = next(
        line.split("'")[1]
        for line in (ROOT / 'densevit' / '__init__.py').read_text().splitlines()
        if line.startswith('__version__')
    )
    assert (metadata['Name'], metadata['Version']) == ('densevit', version)
    assert metadata['Requires-Python'] == '>=3.10'
    assert set(metadata.get_all('Provides-Extra')) == {'mm', 'optional', 'tests'}
    plain = [line for line in metadata.get_all('Requires-Dist') if 'extra ==' not in line]
    assert any(line.startswith(('torch<', 'torch>')) for line in plain)
    assert not [line for line in plain if line.startswith(('mm', 'onedl'))], 'a plain install leaves mm alone'
    extra = [line for line in metadata.get_all('Requires-Dist') if "extra == 'mm'" in line.replace('"', "'")]
    assert len(extra) == 4
    assert list(info.rglob('LICENSE')), 'the licence travels'


def test_an_installed_package_finds_its_configs(installed, tmp_path):
    code = (
        'from densevit.config.reading import configs_dir, load_config; '
        'files = sorted(configs_dir().glob("*.py")); '
        '[load_config(file.name) for file in files[::10]]; print(configs_dir(), len(files))'
    )
    folder, count = run_forked(code, package=installed, folder=tmp_path).split()[-2:]
    assert Path(folder) == installed / 'densevit' / '.mim' / 'configs'
    assert int(count) == len(list((ROOT / 'configs').glob('*.py')))


def test_an_installed_tool_runs_from_any_folder(installed, tmp_path):
    tool = installed / 'densevit' / '.mim' / 'tools' / 'doctor.py'
    code = f"import runpy, sys; sys.argv[:] = [{str(tool)!r}]; runpy.run_path({str(tool)!r}, run_name='__main__')"
    assert str(installed / 'densevit') in run_forked(code, package=installed, folder=tmp_path)
