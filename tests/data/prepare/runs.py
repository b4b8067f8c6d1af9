"""Runs of the tool in this process, and what they leave."""

from __future__ import annotations

import argparse
from pathlib import Path

from densevit.engine import prepare_data as module


def run(dataset: str, *archives: Path, to: Path | None = None, download: bool = False, url: str | None = None) -> int:
    return module.prepare_data(
        argparse.Namespace(
            dataset=dataset, archive=archives and list(map(str, archives)), to=to and str(to), download=download,
            url=url and [url],
        )
    )  # fmt: skip


def tree(root: Path) -> dict[str, bytes]:
    """Every file that is there, by its path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def data(root: Path) -> dict[str, bytes]:
    """Those that the configs read."""
    tops = ('images/', 'annotations/', 'train', 'val')
    return {path: content for path, content in tree(root).items() if path.startswith(tops)}


def expected(archive: dict[str, bytes], top: str = 'ADEChallengeData2016/') -> dict[str, bytes]:
    """What ADE20K's archive becomes."""
    return {
        name.removeprefix(top): content for name, content in archive.items() if name.endswith(('.jpg', '.png'))
    }  # fmt: skip
