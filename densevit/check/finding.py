"""One thing that a check found, and how bad it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import UserError, printable

__all__ = ['Finding', 'Level', 'raise_errors', 'without_repeats']

Level = Literal['error', 'warning', 'note']


@dataclass(frozen=True)
class Finding:
    """What was found at one place.

    Args:
        level: ``'error'``: training must not start; ``'warning'``: probably a mistake; ``'note'``: good to know.
        kind: the name of the fault, ``'label-out-of-range'``: stable, for scripts and for the page.
        place: the path in the config, ``'train_dataloader.dataset'``, or a file.
        message: what is wrong, what was expected and what to do.
        files: the files that it is about, where it is about some.
    """

    level: Level
    kind: str
    place: str
    message: str
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ('place', 'message'):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        return f'{self.level} [{self.kind}] {self.place}: {self.message}'


def raise_errors(findings: Iterable[Finding]) -> None:
    """Stop where there are errors among the findings.

    Raises:
        UserError: has all of them, a line each.
    """
    lines = [f'{found.place}: {found.message}' for found in without_repeats(findings) if found.level == 'error']
    if len(lines) > 1:
        lines = [f'{len(lines)} mistakes:', *(f'- {line}' for line in lines)]
    if lines:
        raise UserError('\n'.join(lines))


def without_repeats(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, each once: two parts of a check may come upon the same."""
    return list({(found.kind, found.place, found.message): found for found in findings}.values())
