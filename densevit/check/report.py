"""What a check found, for a terminal and for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..errors import printable
from .data import DatasetReport
from .data.text import first
from .estimates import Disk, Memory
from .finding import Finding, Level

__all__ = ['LEVELS', 'CheckReport']

# In the order in which a terminal has them: the last are seen.
LEVELS: tuple[Level, ...] = ('note', 'warning', 'error')
_COLORS = {'note': 'cyan', 'warning': 'yellow', 'error': 'bold red'}
_FILES = 3  # names of files below a finding; the JSON file has all


@dataclass
class CheckReport:
    """The findings of a check, and what it counted on the way.

    Attributes:
        config: its file.
        quick: whether it was the quick form.
        findings: all of them, those about the data included.
        datasets: what they hold.
        memory: what training will take, where it was estimated.
        disk: what its checkpoints will take.
    """

    config: str
    quick: bool = False
    findings: list[Finding] = field(default_factory=list)
    datasets: list[DatasetReport] = field(default_factory=list)
    memory: Memory | None = None
    disk: Disk | None = None

    def of(self, level: Level) -> list[Finding]:
        """The findings of one level."""
        return [found for found in self.findings if found.level == level]

    @property
    def may_start(self) -> bool:
        """Whether nothing speaks against training: no finding is an error."""
        return not self.of('error')

    @property
    def verdict(self) -> str:
        """One line."""
        counts = Counter(found.level for found in self.findings)
        said = ', '.join(
            f'{counts[level]} {level}{"" if counts[level] == 1 else "s"}' for level in reversed(LEVELS) if counts[level]
        )
        start = 'Training may start' if self.may_start else 'Training must not start'
        return f'{start}: {said or "nothing found"}.'

    def to_json(self) -> dict[str, Any]:
        """As docs/check.md describes it."""
        return {
            'schema': 1,
            'config': self.config,
            'quick': self.quick,
            'may_start': self.may_start,
            'verdict': self.verdict,
            'counts': {level: len(self.of(level)) for level in LEVELS},
            'findings': [asdict(found) for found in self.findings],
            'datasets': [
                {
                    'path': each.path,
                    'root': each.root,
                    'images': each.images,
                    'instances': each.instances,
                    'shares': each.shares,
                    'ignored': each.ignored,
                }
                for each in self.datasets
            ],
            'memory': self.memory and {**asdict(self.memory), 'total': self.memory.total},
            'disk': self.disk and {**asdict(self.disk), 'total': self.disk.total},
        }

    def print(self, console: Console) -> None:
        """Data sets, then notes, warnings and errors, then the verdict."""
        for each in self.datasets:
            if each.images:
                console.print(Text(printable(dataset_line(each))))
        for level in LEVELS:
            if found := self.of(level):
                console.print(_table(level, found))
        console.print(Text(self.verdict, style='bold green' if self.may_start else 'bold red'))


def dataset_line(dataset: DatasetReport) -> str:
    """How much there is in a data set, and of which classes most."""
    count = f'{dataset.images:,} images'
    if dataset.instances is not None:
        count += f', {dataset.instances:,} instances'
    seen = sorted(((share, name) for name, share in dataset.shares.items() if share), reverse=True)
    classes = first([f'{name} {share:.1%}' for share, name in seen], 5)
    return f'{dataset.path}: {count} in {dataset.root}{f": {classes}" if classes else ""}'


def _table(level: Level, findings: list[Finding]) -> Table:
    title = f'{len(findings)} {level}{"" if len(findings) == 1 else "s"}'
    table = Table(
        box=box.ROUNDED, title=title, title_justify='left', title_style=_COLORS[level], show_header=False, expand=True,
        show_lines=len(findings) > 1, border_style='dim',
    )  # fmt: skip
    table.add_column(ratio=1, overflow='fold', style=_COLORS[level], min_width=16)
    table.add_column(ratio=4, overflow='fold')
    for found in sorted(findings, key=lambda each: each.place):
        table.add_row(Text(found.kind), _cell(found))
    return table


def _cell(found: Finding) -> RenderableType:
    lines = [Text(found.place, style='bold'), Text(found.message)]
    if found.files and not (len(found.files) == 1 and found.files[0] in found.message):
        lines += [Text(f'  {printable(name)}', style='dim') for name in found.files[:_FILES]]
        if len(found.files) > _FILES:
            lines.append(Text(f'  and {len(found.files) - _FILES} more: see --json or --page', style='dim'))
    return Group(*lines)
