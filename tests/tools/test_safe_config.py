"""--safe-config of a tool, from the command line to the metrics."""

from __future__ import annotations

from pathlib import Path

from densevit.config.reading import configs_dir
from densevit.config.safe_parts import is_guarded

from .conftest import SEGMENT, metrics, options


def test_a_config_of_somebody_else(scenes, tmp_path, tool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Path('mine.py')
    config.write_text(f"_base_ = '{configs_dir() / SEGMENT}.py'\nload_from = None")
    arguments = ('--safe-config', '--work-dir', tmp_path / 'run', *options(SEGMENT, scenes))
    assert tool('test', config, *arguments).status == 0
    assert 'mIoU' in metrics(tmp_path / 'run')
    assert not is_guarded()
    config.write_text("import os\nos.mkdir('harm')")
    refused = tool('test', config, *arguments)
    assert refused.status == 2
    assert "mine.py', line 1: 'import os' is a statement that does something" in refused.err
    assert not Path('harm').exists()
