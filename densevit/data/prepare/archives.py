"""Zip and tar archives of strangers: what is in them, and their contents, without any harm.

What an archive holds is decided by its bytes, not by its name. Every member is looked at before the first one is
written; one that could leave the target folder, is no plain file or would swell beyond reason refuses the whole.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...errors import UserError

__all__ = ['Archive', 'Member', 'open_archive']

_RATIO = 100  # uncompressed to compressed; JSON of COCO: 5, deflate's most: 1032
_HARMLESS = 2**27  # bytes that may be compressed as well as one likes
_MOST_BYTES = 2**38  # 256 GiB, ten times the largest set here
_MOST_MEMBERS = 2_000_000
_MOST_AT_ONCE = 2**24  # bytes; a tar's extended headers are read into memory whole
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, struct.error, EOFError,
    ValueError, LookupError, ArithmeticError, NotImplementedError,
)  # fmt: skip
_OPEN = {b'\x1f\x8b': gzip.open, b'BZh': bz2.open, b'\xfd7zXZ\0': lzma.open}
_OTHERS = {
    b'7z\xbc\xaf\x27\x1c': 'a 7z archive',
    b'Rar!': 'a RAR archive',
    b'version https://git-lfs': 'a Git LFS pointer',
}


@dataclass(frozen=True)
class Member:
    """A plain file in an archive.

    Attributes:
        name: its path there, as it is written.
        size: bytes, uncompressed.
    """

    name: str
    size: int


class Archive:
    """An archive that was looked through and found harmless; made by :func:`open_archive`.

    Attributes:
        path: of the file.
        kind: 'zip' or 'tar'.
        members: its plain files, in the order in which they lie there.
    """

    def __init__(self, path: Path, kind: str, members: list[Member]) -> None:
        self.path, self.kind, self.members = path, kind, members

    def contents(self, wanted: Container[str]) -> Iterator[tuple[Member, BinaryIO]]:
        """The wanted members, each with an open file that is good until the next one.

        Raises:
            UserError: the archive is damaged. It comes from reading a content, too, through :meth:`reading`.
        """
        with self.reading():
            if self.kind == 'zip':
                with zipfile.ZipFile(self.path) as file:
                    for member in self.members:
                        if member.name in wanted:
                            with file.open(member.name) as content:
                                yield member, content
            else:
                with _open_tar(self.path) as file:
                    for info in file:
                        if info.isreg() and info.name in wanted:
                            yield Member(info.name, info.size), file.extractfile(info)
                        file.members.clear()  # they would pile up

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what broken contents raise into one sentence."""
        try:
            yield
        except UserError:
            raise
        except (*_BROKEN, OSError) as error:
            raise _damaged(self.path, error) from error


def open_archive(path: Path) -> Archive:
    """Look through a zip or tar archive (of the latter also .gz, .bz2, .xz).

    Raises:
        UserError: it is missing, none, cut off, encrypted, or holds what could do harm; the message says which.
    """
    if path.is_dir():
        raise UserError(
            f'{str(path)!r} is a folder, not an archive; what is unpacked already can be moved or linked to where the '
            'configs look for it.'
        )
    if not path.is_file():
        raise UserError(f'the archive {str(path)!r} does not exist.')
    with path.open('rb') as file:
        head = file.read(1024)
    _check_head(path, head)
    try:
        if head.startswith(b'PK') or zipfile.is_zipfile(path):
            return Archive(path, 'zip', _list_zip(path))
        if head.startswith(tuple(_OPEN)) or head[257:262] == b'ustar':
            return Archive(path, 'tar', _list_tar(path))
    except UserError:
        raise
    except (*_BROKEN, OSError) as error:
        raise _damaged(path, error) from error
    raise UserError(f'{str(path)!r} is neither a zip nor a tar archive: it begins with {head[:16]!r}.')


def _check_head(path: Path, head: bytes) -> None:
    text = head.lstrip(b'\xef\xbb\xbf \t\r\n')
    if not head:
        raise UserError(f'{str(path)!r} is empty: the download has failed; get it again.')
    if text.lower().startswith((b'<!doctype', b'<html', b'<?xml', b'<head', b'{')):
        begin = ' '.join(text[:80].decode('utf-8', 'replace').split())
        raise UserError(
            f'{str(path)!r} is a web page or a message under the name of an archive ({begin!r}): the site wanted a '
            'login, or the address has moved; open it in a browser, and get the archive itself.'
        )
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise UserError(f'{str(path)!r} is {what}, which is not read here; get the zip or tar archive.')


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error) or type(error).__name__
    if reason == 'File is not a zip file':  # zipfile's words
        reason = 'the table of contents, which a zip has at its end, is missing'
    return UserError(
        f'the archive {str(path)!r} is cut off or damaged ({path.stat().st_size} bytes; {reason}): get it again, and '
        'compare its size with that of the original.'
    )


# --------------------------------------------------------------------------------------------------- what is there
def _list_zip(path: Path) -> list[Member]:
    members = []
    with zipfile.ZipFile(path) as file:
        check = _Check(path)
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise check.refusal(info.orig_filename, 'is a link or a device')
            if info.flag_bits & 1:
                raise check.refusal(info.orig_filename, 'is encrypted')
            # zipfile cuts a name at a NUL, and another reader might not
            if check(info.orig_filename, info.file_size, info.filename.endswith('/')):
                members.append(Member(info.filename, info.file_size))
    return members


def _list_tar(path: Path) -> list[Member]:
    members = []
    check = _Check(path)
    with _open_tar(path) as file:
        for info in file:
            if not (info.isreg() or info.isdir()) or info.issparse():
                raise check.refusal(info.name, 'is a link, a device or sparse')
            if check(info.name, info.size, info.isdir()):
                members.append(Member(info.name, info.size))
            file.members.clear()
        # tarfile takes a cut or broken header, too, for the end
        file.fileobj.seek(file.offset)
        if file.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f'no end after {len(members)} files')
        # a checksum may follow; tars are padded, by little
        for _ in range(_MOST_AT_ONCE // tarfile.BLOCKSIZE):
            if not file.fileobj.read(tarfile.BLOCKSIZE):
                break
    return members


class _Check:
    """Whether the members of an archive are harmless, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path, self.packed, self.unpacked = path, path.stat().st_size, 0
        self.seen: set[str] = set()

    def __call__(self, name: str, size: int, is_folder: bool) -> bool:
        """Whether it is a file; raises where it does harm."""
        plain = name.rstrip('/') if is_folder else name
        if re.search(r'[\x00-\x1f\x7f\\]', name):
            raise self.refusal(name, 'has a control character or a backslash in its name')
        if name.startswith('/') or re.match('[A-Za-z]:', name):
            raise self.refusal(name, 'has an absolute path')
        parts = plain.removeprefix('./').split('/')
        if '..' in parts:
            raise self.refusal(name, 'leaves the target folder')
        if is_folder:
            return False
        if not name or '' in parts or '.' in parts or len(name) > 1024:
            raise self.refusal(name, 'has an odd path')
        if name in self.seen:
            raise self.refusal(name, 'is there twice')
        self.seen.add(name)
        self.unpacked += size
        swollen = self.unpacked > max(_HARMLESS, _RATIO * self.packed)
        if swollen or self.unpacked > _MOST_BYTES or len(self.seen) > _MOST_MEMBERS:
            raise UserError(
                f'{str(self.path)!r} is refused: its {self.packed / 1e6:.1f} MB would unpack to '
                f'{self.unpacked / 1e6:.0f} MB and more, in {len(self.seen)} files, as no data set does.'
            )
        return True

    def refusal(self, name: str, why: str) -> UserError:
        """The error about one member."""
        return UserError(
            f'{str(self.path)!r} is refused: its member {name[:200]!r} {why}; nothing was unpacked. Get the archive '
            'from its official address.'
        )


# ------------------------------------------------------------------------------------------------------------- tars
class _Limited:
    """A decompressed stream that does not read much at once, whatever a header asks for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_AT_ONCE:
            raise tarfile.ReadError(f'a header of {size} bytes')
        return self._file.read(size)


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    with path.open('rb') as raw:
        head = raw.read(8)
        raw.seek(0)
        opener = next((opener for magic, opener in _OPEN.items() if head.startswith(magic)), None)
        with opener(raw) if opener else path.open('rb') as stream:
            with tarfile.open(fileobj=_Limited(stream), mode='r:', errorlevel=2) as file:
                yield file
