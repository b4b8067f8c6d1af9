"""Fetching a file of the web so that a broken connection, or a killed process, loses nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column

from .errors import UserError

__all__ = ['Advice', 'Download', 'byte_progress', 'digest_of']

_PAUSES = (1.0, 2.0, 4.0)  # seconds before the second try, the third and the last
_TIMEOUT = 30.0  # seconds without a sign of the server
_CHUNK = 2**20  # bytes
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


@dataclass(frozen=True)
class Advice:
    """How the messages end: what else to do where a file cannot be fetched.

    Attributes:
        failed: after "cannot fetch URL (reason)", with its own punctuation.
        elsewhere: after "make room there, or".
        length: after "a broken connection would not be noticed;".
    """

    failed: str
    elsewhere: str
    length: str


class Download:
    """What has come of a URL, in ``part``, and the rest of it.

    A broken download goes on where it stopped, where the server can do that and the file has not changed: the ETag of
    what has come lies beside it.

    Args:
        url: address.
        place: path without a suffix; ``.part``, ``.etag`` and ``.lock`` are added.
        advice: how messages end.
        needs_length: refuse a server that does not tell the length, where nothing else would show a missing end.
        error: class of the errors.
    """

    def __init__(
        self, url: str, place: Path, advice: Advice, *, needs_length: bool = True, error: type[UserError] = UserError
    ) -> None:
        self.url, self.folder = url, place.parent
        self.advice, self.needs_length, self.error = advice, needs_length, error
        self.part, self.etag, self.lock = (place.with_name(place.name + end) for end in ('.part', '.etag', '.lock'))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say where it was that the disk was full or closed."""
        try:
            yield
        except OSError as error:
            raise self.error(
                f'{self.url!r} cannot be kept in {self.folder} ({error.strerror or error}); make room there, or '
                f'{self.advice.elsewhere}.'
            ) from error

    @contextmanager
    def alone(self, progress: Progress) -> Iterator[None]:
        """Wait until no other process fetches this; meanwhile show how far that one is."""
        lock = FileLock(self.lock)
        while True:
            try:
                lock.acquire(blocking=False)
                break
            except Timeout:
                progress.update(progress.task_ids[0], completed=self.size())
                time.sleep(0.1)
        try:
            yield
        finally:
            lock.release()

    def size(self) -> int:
        """How many bytes a broken download has left."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def fetch(self, progress: Progress) -> Path:
        """Fetch all of it, in several tries if need be; return ``part``, for the caller to check and move.

        Raises:
            UserError: (or ``error``) it cannot be fetched, kept, or is a web page.
        """
        for pause in (*_PAUSES, None):
            try:
                self._try(progress)
                return self.part
            except HTTPError as error:
                error.close()
                reason = f'the server answers {error.code} {error.reason}'
                if error.code == 416:  # more was left than there is: of another version
                    self.part.unlink(missing_ok=True)
                elif error.code < 500 and error.code not in (408, 429):
                    break
            except (OSError, HTTPException) as error:
                reason = str(getattr(error, 'reason', error)) or type(error).__name__
            if pause is not None:
                left = f', {self.size() / 1e6:.1f} MB are there' if self.size() else ''
                progress.console.print(f'{self.url}: {reason}{left}; trying again.', markup=False, soft_wrap=True)
                time.sleep(pause)
        raise self.error(f'cannot fetch {self.url!r} ({reason}){self.advice.failed}')

    def _try(self, progress: Progress) -> None:
        """Try once to get what is missing; an error of the connection leaves what has come so far."""
        begin, resume = self.size(), {}
        if begin and (etag := self.etag.read_text() if self.etag.is_file() else ''):
            resume = {'Range': f'bytes={begin}-', 'If-Range': etag}
        with urlopen(Request(self.url, headers={'User-Agent': 'densevit', **resume}), timeout=_TIMEOUT) as response:
            etag = response.headers.get('ETag', '')
            if response.status == 206:
                sent = response.headers.get('Content-Range', '')
                if etag != resume.get('If-Range') or not sent.startswith(f'bytes {begin}-'):
                    self.part.unlink(missing_ok=True)
                    raise ConnectionError('the file has changed meanwhile')
            else:
                begin = 0  # the whole file: a server without ranges, or another version
            if response.headers.get_content_type() in ('text/html', 'application/json') or response.length == 0:
                raise self.error(f'{self.url!r} is a web page or empty; give the address of the file itself.')
            if response.length is None and not response.chunked and self.needs_length:
                raise self.error(
                    f'{self.url!r} comes without its length, so a broken connection would not be noticed; '
                    f'{self.advice.length}.'
                )
            total = None if response.length is None else begin + response.length
            self._check_space((response.length or 0) - (0 if begin else self.size()))
            with self.writing():
                file = self.part.open('ab' if begin else 'wb')
                if not begin:
                    # a weak ETag does not promise the same bytes
                    self.etag.write_text('' if etag.startswith('W/') else etag)
            with file:
                while total is None or begin < total:
                    progress.update(progress.task_ids[0], total=total, completed=begin)
                    chunk = response.read1(_CHUNK)
                    if not chunk:
                        break
                    with self.writing():
                        file.write(chunk)
                        file.flush()
                    begin += len(chunk)
                with self.writing():
                    os.fsync(file.fileno())
        progress.update(progress.task_ids[0], total=total, completed=begin)
        if total is not None and begin < total:
            raise ConnectionError(f'the connection broke at {begin / 1e6:.1f} of {total / 1e6:.1f} MB')

    def _check_space(self, missing: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise self.error(
                f'{self.folder} has {free / 1e9:.1f} GB left, but {self.url!r} needs {missing / 1e9:.1f} GB more; make '
                f'room there, or {self.advice.elsewhere}.'
            )


def byte_progress(name: str) -> Progress:
    """A bar in bytes, with one task, on the screen of the first process."""
    quiet = any(os.environ.get(rank, '0') != '0' for rank in _RANKS)
    numbers = [
        column(table_column=Column(no_wrap=True))  # on a narrow screen the bar is to give way
        for column in (DownloadColumn, TransferSpeedColumn, TimeRemainingColumn)
    ]
    progress = Progress(
        TextColumn('{task.description}', markup=False), BarColumn(), *numbers, console=Console(stderr=True, quiet=quiet)
    )
    progress.add_task(name, total=None)
    return progress


def digest_of(file: Path, algorithm: str = 'sha256', progress: Progress | None = None) -> str:
    """The hash of a file, in hexadecimal digits."""
    digest = hashlib.new(algorithm)
    with file.open('rb') as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            if progress:
                progress.update(progress.task_ids[0], advance=len(chunk))
    return digest.hexdigest()
