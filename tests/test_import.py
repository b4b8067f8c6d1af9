"""Importing densevit is quick and draws in nothing that is not asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Modules that are not to be imported, absent from sys.modules and refused as if not installed.
BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {names}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Absent())
"""


def run_fresh(code: str, *, absent: tuple[str, ...] = (), folder: Path | None = None) -> str:
    """Run code in a fresh interpreter that finds this densevit; returns what it prints."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', BLOCK.format(names=set(absent) or '()') + dedent(code)],
        env=os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        cwd=folder or ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_import_draws_in_nothing_heavy():
    loaded = run_fresh('import densevit, sys; print(*sorted(sys.modules))').split()
    heavy = {'torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'numpy', 'cv2', 'PIL', 'rich'}
    assert 'densevit' in loaded
    assert not heavy & set(loaded)


def test_import_is_quick():
    seconds = run_fresh("""
        import importlib, time
        importlib.import_module('torch')
        start = time.perf_counter()
        importlib.import_module('densevit')
        print(time.perf_counter() - start)
    """)
    assert float(seconds) < 0.5


@pytest.mark.parametrize('module', [
    'densevit.backbones.patchconvnet', 'densevit.layers', 'densevit.necks.columnar_pyramid', 'densevit.checkpoints',
    'densevit.classifiers.image_classifier',
])  # fmt: skip
def test_models_need_neither_mmseg_nor_mmdet(module):
    run_fresh(f'import {module}', absent=('mmseg', 'mmdet'))


def test_models_do_not_import_mmseg_or_mmdet_where_they_are():
    loaded = run_fresh("""
        import densevit, sys
        densevit.PatchConvNet, densevit.ImageClassifier, densevit.ColumnarPyramid
        import densevit.checkpoints
        print(*sorted(sys.modules))
    """).split()
    assert 'densevit.backbones.patchconvnet' in loaded
    assert not {'mmseg', 'mmdet'} & set(loaded)


def test_attributes():
    import densevit
    from densevit.registry import PARTS

    assert set(PARTS) <= set(dir(densevit))
    with pytest.raises(AttributeError, match="no attribute 'PatchConvNt'; did you mean 'PatchConvNet'"):
        _ = densevit.PatchConvNt
    assert not hasattr(densevit, '__wrapped__')
    assert densevit.__version__.count('.') == 2


def test_without_mmengine_the_message_says_what_to_install():
    printed = run_fresh(
        """
        import densevit
        try:
            densevit.PatchConvNet
        except ModuleNotFoundError as error:
            print(error)
        """,
        absent=('mmengine',),
    )
    assert 'mmengine is not installed' in printed
    assert 'pip install' in printed
