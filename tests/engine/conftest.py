"""Data sets of few files, and a server, for the tests of tools/prepare_data.py."""

from __future__ import annotations

import pytest

from densevit import fetch
from densevit.data.prepare.datasets import DATASETS
from tests.checkpoints.server import running
from tests.data.prepare.archive_files import with_counts

COUNTS = {
    'ade20k': {'training': 5, 'validation': 3},
    'coco': {'train2017': 4, 'val2017': 2},
    'camvid': {'training': 2, 'validation': 1},
    'nuclei': {'train': 2, 'val': 2},
}


@pytest.fixture
def small_sets(monkeypatch, tmp_path):
    """Data sets of few files, no proxy, no pauses, and a current folder of its own."""
    for name, counts in COUNTS.items():
        monkeypatch.setitem(DATASETS, name, with_counts(name, **counts))
    monkeypatch.setattr(fetch, '_PAUSES', (0.0, 0.0, 0.0))
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.delenv('DENSEVIT_DATA', raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server():
    """A web server on this machine."""
    with running() as server:
        yield server
