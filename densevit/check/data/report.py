"""What a check of one dataset found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..finding import Finding, Level
from .text import first

__all__ = ['DatasetReport']


@dataclass
class DatasetReport:
    """What one dataset of a config holds, and what is wrong with it; ``print`` it.

    Attributes:
        path: the place in the config, ``'train_dataloader.dataset'``.
        root: its data root.
        images: their number, after filtering.
        instances: annotated ones, without crowds; None for segmentation.
        shares: of each class: of the instances or of the pixels that were looked at, 0 to 1.
        ignored: fraction of those pixels with the void label.
        histogram: of a dataset for segmentation: how many of those pixels have which value in the files.
        sampled: whether only some of the files were looked at.
        findings: in the order in which they were made.
    """

    path: str
    root: str
    images: int = 0
    instances: int | None = None
    shares: dict[str, float] = field(default_factory=dict)
    ignored: float = 0.0
    histogram: dict[int, int] = field(default_factory=dict)
    sampled: bool = True
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """Those that training must not start with."""
        return [finding for finding in self.findings if finding.level == 'error']

    def add(self, level: Level, kind: str, message: str, files: Sequence[str] = (), place: str = '') -> None:
        """Note a finding about this dataset, or about another ``place`` in the config that it does not fit."""
        self.findings.append(Finding(level, kind, place or self.path, message, tuple(files)))

    def __str__(self) -> str:
        count = f'{self.images} images' + ('' if self.instances is None else f', {self.instances} instances')
        text = [f'{self.path}: {count} in {self.root}']
        seen = sorted(((share, name) for name, share in self.shares.items() if share), reverse=True)
        unseen = [name for name, share in self.shares.items() if not share]
        if seen:
            void = f', void {self.ignored:.1%}' if self.instances is None else ''
            text.append(f'  {first([f"{name} {share:.1%}" for share, name in seen], 8)}{void}')
        if seen and unseen:
            sample = ' in the sample' if self.instances is None and self.sampled else ''
            text.append(f'  not seen{sample}: {first(unseen, 6)}')
        return '\n'.join(text + [f'  {each.level} [{each.kind}]: {each.message}' for each in self.findings])
