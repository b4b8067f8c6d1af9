"""What the doctor reports, in this environment and in broken ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from densevit.analysis import environment
from densevit.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DOCTOR = ROOT / 'tools' / 'doctor.py'


def install(folder: Path, name: str, version: str) -> None:
    """What pip leaves of a distribution, as far as importlib.metadata reads it."""
    info = folder / f'{name.replace("-", "_")}-{version}.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')


@pytest.fixture
def pretend(monkeypatch):
    """Replace the versions that are installed by a given dictionary."""

    def replace(**versions: str) -> None:
        names = {name.replace('_', '-'): version for name, version in versions.items()}
        monkeypatch.setattr(environment, '_version', names.get)

    return replace


class TestOpenCV:
    def test_this_environment_has_the_headless_build(self):
        cv2 = pytest.importorskip('cv2')
        assert environment.opencv_gui(cv2.getBuildInformation()) == 'NONE', environment.check_opencv().advice

    @pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc/self/maps')
    def test_it_loads_neither_libgl_nor_qt(self):
        code = 'import cv2; print(open("/proc/self/maps").read())'
        maps = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
        assert 'cv2' in maps
        assert not re.findall(r'\S*/lib(?:GL|Qt)\S*', maps)

    @pytest.mark.parametrize(('text', 'gui'), [
        ('  Media\n\n  GUI:                           QT5\n    QT: YES', 'QT5'),
        ('  GUI:                           NONE\n', 'NONE'),
        ('', 'unknown'),
    ])  # fmt: skip
    def test_window_system_of_a_build(self, text, gui):
        assert environment.opencv_gui(text) == gui

    def test_another_build_is_reported_with_the_command_that_mends_it(self, pretend, monkeypatch):
        pretend(opencv_python='4.12.0.88', opencv_python_headless='4.12.0.88')
        monkeypatch.setattr('cv2.getBuildInformation', lambda: '  GUI:    QT5\n')
        check = environment.check_opencv()
        assert check.state == 'warning'
        assert 'QT5' in check.found
        assert check.advice == 'pip install --force-reinstall --no-deps opencv-python-headless==4.12.0.88'


class TestMmLines:
    def test_this_environment_has_one_line_of_each(self):
        environment.require_one_mm_line()

    @pytest.mark.parametrize(('original', 'ours', 'module'), [
        ('mmcv', 'onedl-mmcv', 'mmcv'),
        ('mmcv-full', 'onedl-mmcv', 'mmcv'),
        ('mmsegmentation', 'onedl-mmsegmentation', 'mmseg'),
    ])  # fmt: skip
    def test_two_lines_of_one_package_stop_the_tools(self, tmp_path, monkeypatch, original, ours, module):
        install(tmp_path, original, '2.2.0')
        install(tmp_path, ours, '2.3.6')
        monkeypatch.setattr(sys, 'path', [str(tmp_path)])
        with pytest.raises(UserError, match=f'{original} and {ours} are both installed.* in {module}/'):
            environment.require_one_mm_line()
        check = environment.check_mm(module)
        assert check.state == 'problem'
        assert check.advice.endswith(f'pip uninstall -y {original} {ours} && pip install {ours}')

    def test_an_original_alone_is_no_conflict(self, tmp_path, monkeypatch):
        install(tmp_path, 'mmcv', '2.2.0')
        monkeypatch.setattr(sys, 'path', [str(tmp_path)])
        assert environment.mm_conflicts() == []

    def test_an_original_that_imports_is_a_warning(self, pretend):
        pretend(mmengine='0.10.7')
        check = environment.check_mm('mmengine')
        assert check.state == 'warning'
        assert 'mmengine 0.10.7 (original)' in check.found

    def test_one_task_alone_is_enough_to_train(self, pretend):
        pretend(onedl_mmsegmentation='1.4.2')
        check = environment.check_mm('mmdet')
        assert (check.state, check.found) == ('warning', 'not installed: no detection')
        pretend()
        assert environment.check_mm('mmdet').state == 'problem'


class TestVersions:
    def test_the_table_says_what_the_requirement_files_say(self):
        lines = [
            line
            for name in ('runtime', 'mminstall')
            for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
        ]
        for distribution in environment.TESTED:
            assert environment._requirement(distribution) in lines

    @pytest.mark.parametrize(('found', 'state'), [
        ('2.10.9', 'warning'), ('2.11.0', 'ok'), ('2.15.3+cpu', 'ok'), ('2.16.0.dev1', 'warning'),
    ])  # fmt: skip
    def test_versions_beside_the_tested_ones_are_warnings(self, pretend, found, state):
        pretend(torch=found)
        check = environment.check_package('torch', 'torch')
        assert (check.state, check.found) == (state, found)

    def test_a_missing_package_is_a_problem_with_its_requirement(self, pretend):
        pretend()
        check = environment.check_package('torch', 'torch')
        assert (check.state, check.advice) == ('problem', "pip install 'torch>=2.11,<2.16'")

    def test_a_package_that_does_not_import_is_a_problem_with_its_reason(self):
        check = environment.check_package('numpy', 'numpy.not_there')
        assert check.state == 'problem'
        assert 'numpy.not_there' in check.found


class TestDoctor:
    def run(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=cwd, env={}, capture_output=True, text=True, timeout=120)

    def test_this_environment_is_ready(self, tmp_path):
        done = self.run(str(DOCTOR), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert 'Ready to train.' in done.stdout
        assert re.search(r'^ok +mmcv ops ', done.stdout, re.MULTILINE)
        assert len(done.stdout.splitlines()) <= 40, 'more than one screen'

    def test_without_any_package_it_says_what_to_install(self, tmp_path):
        done = self.run('-S', str(DOCTOR), '--json', cwd=tmp_path)  # -S: no site-packages
        report = json.loads(done.stdout)
        assert done.returncode == 1
        assert done.stderr == ''
        assert report['ready'] is False
        checks = {check['name']: check for check in report['checks']}
        assert checks['python']['state'] == 'ok'
        assert checks['torch']['state'] == 'problem'
        assert checks['mmengine']['advice'] == "pip install 'onedl-mmengine>=0.10.12,<1'"
        assert all(check['advice'] for check in checks.values() if check['state'] == 'problem')

    def test_one_check_that_breaks_does_not_stop_the_others(self):
        def broken() -> environment.Check:
            raise RuntimeError('undefined symbol')

        check = environment._guarded('numpy', broken)
        assert (check.state, check.found) == ('problem', 'undefined symbol')
        text = environment.to_text([check, environment.Check('timm', 'ok', '1.0')])
        assert 'Not ready to train: numpy.' in text
        assert not environment.is_ready([check])
