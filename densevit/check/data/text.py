"""Lists and values in messages, shortened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ['counted', 'first', 'short', 'spread', 'suffixes']


def first(items: Sequence, count: int) -> str:
    """The first ``count`` of the items, and how many there are where that is not all."""
    return ', '.join(map(str, items[:count])) + (f', ... ({len(items)})' if len(items) > count else '')


def counted(names: Sequence[str], what: str, verb: str = 'has') -> str:
    """The subject of a sentence on some files: ``"the image '/a.jpg' (and 2 more) has"``."""
    more = f' (and {len(names) - 1} more)' if len(names) > 1 else ''
    return f'the {what} {os.path.abspath(names[0])!r}{more} {verb}'


def short(value: object, length: int = 80) -> str:
    """A value as Python writes it, cut to ``length`` characters."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + '...'


def spread(items: Sequence, count: int) -> list:
    """At most ``count`` of the items, evenly spread, the first included."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def suffixes(names: Iterable[str]) -> str:
    """Which suffixes file names have, the most frequent first."""
    counts = Counter(Path(name).suffix for name in names)
    most = [f'{suffix or "no suffix"} ({count})' for suffix, count in counts.most_common(5)]
    return ', '.join(most) or 'no file'
