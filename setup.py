"""What setup.cfg cannot say: configs/, their index and tools/ travel in the package, as densevit/.mim."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildPy(build_py):
    """Copy configs/, their index and tools/ beside the built modules; an editable install uses those of the clone."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for name in ('configs', 'tools'):
            target = Path(self.build_lib, 'densevit', '.mim', name)
            shutil.rmtree(target, ignore_errors=True)  # build/ may hold files that have been removed since
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
        shutil.copy(ROOT / 'model-index.yml', target.parent)


setup(cmdclass={'build_py': BuildPy})
