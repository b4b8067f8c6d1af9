"""What a user did wrong, in one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ['UserError', 'did_you_mean', 'printable']


class UserError(ValueError):
    """A mistake that the user can mend: the message says what is wrong, what was expected and what to do.

    The tools print the message alone, without a traceback, and exit with status 2. What of it a terminal would obey
    rather than print, as names of files and contents of strangers may have it, is escaped.
    """

    def __init__(self, message: str = '') -> None:
        super().__init__(printable(str(message)))


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The end of an error message about an unknown ``name``.

    Returns ``"; did you mean 'x'?"`` for the nearest of ``valid``, or an empty string where nothing is near.
    """
    by_lower = {str(candidate).lower(): str(candidate) for candidate in valid}
    nearest = get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.6)
    return f'; did you mean {by_lower[nearest[0]]!r}?' if nearest else ''


def printable(text: str) -> str:
    """A text of which a terminal prints everything and obeys nothing; file names may hold any character."""
    if text.replace('\n', '').isprintable():
        return text
    return ''.join(
        each if each.isprintable() or each == '\n' else each.encode('unicode_escape').decode() for each in text
    )
