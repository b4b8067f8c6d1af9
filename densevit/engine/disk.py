"""What a run says when its disk is full, or closed to it."""

from __future__ import annotations

import errno
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..checkpoints.atomic import FULL
from ..errors import UserError

__all__ = ['is_full', 'naming_the_disk', 'quiet_when_full']

_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EIO)


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that there is no room on a disk, or in a quota."""
    return isinstance(error, OSError) and error.errno in FULL


@contextmanager
def naming_the_disk(work_dir: str | Path) -> Iterator[None]:
    """Turn an error of the work dir's disk into one sentence.

    Raises:
        UserError: a disk is full, or something in ``work_dir`` cannot be written.
    """
    folder = Path(work_dir).absolute()
    try:
        yield
    except OSError as error:
        place = Path(error.filename).absolute() if isinstance(error.filename, str) else None
        inside = place is not None and (place == folder or folder in place.parents or place in folder.parents)
        if is_full(error):
            where = f'{str(place)!r}' if place else f'a file, probably in {str(work_dir)!r}{_room(folder)},'
            raise UserError(
                f'{where} cannot be written ({error.strerror}); make room there, and go on with --resume.'
            ) from error
        if inside and error.errno in _CLOSED:
            raise UserError(
                f'{str(place)!r} cannot be written ({error.strerror}); name another folder with --work-dir, or make '
                'this one such that it can be written to.'
            ) from error
        raise


def _room(folder: Path) -> str:
    try:
        return f', where {shutil.disk_usage(folder).free / 1e6:.1f} MB are free'
    except OSError:
        return ''


def quiet_when_full(logger: logging.Logger) -> None:
    """Leave out the traceback that ``logging`` prints for every line that finds no room; the screen has the line."""
    for handler in logger.handlers:

        def handle(record: logging.LogRecord, handler: logging.Handler = handler) -> None:
            if not is_full(sys.exc_info()[1]):
                type(handler).handleError(handler, record)

        handler.handleError = handle
