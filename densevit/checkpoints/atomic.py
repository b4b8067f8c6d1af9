"""Files that are there whole or not at all, and their hashes beside them.

A file is written under another name, brought to the disk (``fsync``) and renamed, so that whatever happens, its name
stands for the old content or the new. Its SHA-256 is in a file of its own, ``iter_100.pth.sha256``, in the format of
``sha256sum``: it can be copied and removed with what it is about, anyone can check it (``sha256sum -c *.sha256``), and
no other file has to be changed, as a common list would. Torch does not look at the checksums in its own files when it
reads them, so a hash is what tells a flipped bit.

The name is given first, the hash follows: a process that is killed in between leaves a whole file without a hash.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from pathlib import Path

from ..errors import UserError
from ..fetch import digest_of

__all__ = [
    'NotWrittenError',
    'digest_file',
    'is_damaged',
    'remove_file',
    'remove_leftovers',
    'write_file',
    'write_note',
]

# Of a disk without room, a quota, and a limit of the file size (RLIMIT_FSIZE).
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PART = re.compile(r'\..+\.\d+\.part')  # as _write names what it has not finished
_SUFFIX = '.sha256'


class NotWrittenError(UserError):
    """A file cannot be written; what was there under its name is as it was.

    Attributes:
        full: there was no room for it.
    """

    def __init__(self, message: str, *, full: bool) -> None:
        super().__init__(message)
        self.full = full

    @classmethod
    def of(cls, path: Path, error: OSError) -> NotWrittenError:
        """What to say of an error in writing ``path``."""
        full = error.errno in FULL
        advice = 'make room there' if full else 'make the folder one that can be written to'
        kept = 'the file of this name is as it was' if path.is_file() else 'nothing of it is left'
        return cls(f'{str(path)!r} cannot be written ({error.strerror or error}); {kept}; {advice}.', full=full)


def write_file(path: Path, content: bytes) -> None:
    """Write a file and its hash; the folder is made where it is missing.

    Raises:
        NotWrittenError: there is no room, or the folder cannot be written to; nothing has changed then.
    """
    note = digest_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < len(content):  # rather than to fill what is left, which others want too
            reason = f'{os.strerror(errno.ENOSPC)}: it takes {_size(len(content))}, and {_size(free)} are free'
            raise OSError(errno.ENOSPC, reason)
        _write(path, content, outdated=note)
        # 64 digits and two spaces, as sha256sum prints them
        _write(note, f'{hashlib.sha256(content).hexdigest()}  {path.name}\n'.encode())
    except OSError as error:
        raise NotWrittenError.of(path, error) from error


def write_note(path: Path, text: str) -> None:
    """Write a short text, whole or not at all, without a hash.

    Raises:
        NotWrittenError: it cannot be written.
    """
    try:
        _write(path, text.encode())
    except OSError as error:
        raise NotWrittenError.of(path, error) from error


def _write(path: Path, content: bytes, outdated: Path | None = None) -> None:
    """Write and rename; ``outdated`` is removed when the content is on the disk, before it gets its name."""
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with part.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if outdated:
            outdated.unlink(missing_ok=True)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _size(num_bytes: int) -> str:
    return f'{num_bytes / 1e6:.1f} MB' if num_bytes >= 1e5 else f'{num_bytes / 1e3:.1f} kB'


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk; some network file systems cannot, and need not, nor can Windows."""
    if not hasattr(os, 'O_DIRECTORY'):
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def digest_file(path: Path) -> Path:
    """Where the hash of a file is."""
    return path.with_name(path.name + _SUFFIX)


def is_damaged(path: Path) -> bool | None:
    """Whether a file has another hash than the one beside it; None where there is none that can be read."""
    if not digest_file(path).is_file():
        return None
    try:
        noted = digest_file(path).read_text(encoding='ascii')
    except (OSError, UnicodeDecodeError):
        return None
    match = re.match(r'[0-9a-f]{64}(?=\s)', noted)
    return digest_of(path) != match[0] if match else None


def remove_file(path: Path) -> None:
    """Remove a file and its hash."""
    path.unlink(missing_ok=True)
    digest_file(path).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> list[str]:
    """Remove what processes that were killed left: unfinished files, and hashes of files that are gone.

    Only for a run that has the folder to itself: another process may be writing such a file.

    Returns:
        Names of the unfinished files.
    """
    parts = [path for path in folder.glob('.*.part') if _PART.fullmatch(path.name)]
    alone = [path for path in folder.glob(f'*.pth{_SUFFIX}') if not path.with_name(path.name[: -len(_SUFFIX)]).exists()]
    for path in (*parts, *alone):
        path.unlink(missing_ok=True)
    return sorted(path.name for path in parts)
