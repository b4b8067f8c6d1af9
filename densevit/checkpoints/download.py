"""Checkpoints by URL: fetched once, and kept under the hash of their content.

The cache is ``$DENSEVIT_CACHE``, by default ``densevit/checkpoints`` in ``$XDG_CACHE_HOME`` or in ``~/.cache``::

    <sha256 of the content>.pth         what was fetched, whole; its name is its check
    urls/<hash of the URL>.txt          which content a URL has: its sha256, and the URL
    urls/<hash of the URL>.pth          a file put there by hand, for a machine without a connection
    urls/<hash of the URL>.part, .etag  what a broken download has left, and of which version

A URL that was fetched once is taken from the cache, without a request: what a run starts from does not change under it,
and needs no connection. Remove the file to fetch it anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from .errors import CheckpointError

__all__ = ['cache_folder', 'is_url', 'local_file']

# Of a name as torchvision, timm and mmengine publish: swin_t-704ceda3.pth.
_NAMED_HASH = re.compile(r'-([0-9a-f]{8,64})\.\w+$')
_DATE = re.compile(r'(19|20)\d\d[01]\d[0-3]\d')
_PAUSES = (1.0, 2.0, 4.0)  # seconds before the second try, the third and the last
_TIMEOUT = 30.0  # seconds without a sign of the server
_CHUNK = 2**20  # bytes
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


def is_url(source: object) -> bool:
    """Whether this is an address of the web."""
    return isinstance(source, str) and source.lower().startswith(('http://', 'https://'))


def cache_folder() -> Path:
    """Where fetched checkpoints are kept."""
    if given := os.environ.get('DENSEVIT_CACHE'):
        return Path(given).expanduser().resolve()
    root = os.environ.get('XDG_CACHE_HOME', '')
    return (Path(root) if os.path.isabs(root) else Path.home() / '.cache') / 'densevit' / 'checkpoints'


def local_file(source: str | Path, *, sha256: str | None = None) -> Path:
    """The file that a path or a URL means; a URL is fetched into the cache, unless it is there.

    Of several processes one fetches, the others wait for it. A broken download is tried again and goes on where it
    stopped, where the server can do that and the file has not changed; what is not whole never gets the name of a file.

    Args:
        source: path, or URL.
        sha256: hash of the content, or its first 8 digits or more, to be verified; by default the one in a URL's name.

    Raises:
        CheckpointError: there is no such file, it cannot be fetched or kept, or its content has another hash.
    """
    expected = (sha256 or '').lower()
    if sha256 is not None and not re.fullmatch('[0-9a-f]{8,64}', expected):
        raise CheckpointError(f'sha256={sha256!r}: give the first 8 to 64 hexadecimal digits of the hash.')
    if is_url(source):
        return _Entry(urldefrag(str(source)).url, expected).get()
    path = Path(source).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f'checkpoint {str(source)!r} does not exist; give the path or the URL of a .pth or .safetensors file.'
        )
    if expected and not (digest := _digest(path)).startswith(expected):
        raise CheckpointError(f'{str(source)!r} has the sha256 {digest} instead of {expected}; it is another file.')
    return path


class _Entry:
    """What the cache has of a URL."""

    def __init__(self, url: str, expected: str) -> None:
        name = PurePosixPath(unquote(urlsplit(url).path)).name
        named = _NAMED_HASH.search(name)
        if not expected and named and not _DATE.fullmatch(named[1]):
            expected = named[1]
        self.url, self.name, self.expected = url, name or url, expected
        self.folder = cache_folder()
        self.suffix = '.safetensors' if name.endswith('.safetensors') else '.pth'
        key = hashlib.sha256(url.encode()).hexdigest()[:16]
        self.record, self.by_hand, self.part, self.etag, self.lock = (
            self.folder / 'urls' / f'{key}{suffix}' for suffix in ('.txt', self.suffix, '.part', '.etag', '.lock')
        )

    def get(self) -> Path:
        """The file in the cache, or fetched into it."""
        with self.writing():
            if found := self.find():
                return found
            self.record.parent.mkdir(parents=True, exist_ok=True)
            with _progress(self.name) as progress, self.alone(progress):
                return self.find() or self.keep(self.by_hand if self.by_hand.is_file() else self.download(progress))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say where it was that the disk was full or closed."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f'{self.url!r} cannot be kept in {self.folder} ({error.strerror or error}); make room there, or set '
                'the environment variable DENSEVIT_CACHE to another folder.'
            ) from error

    def find(self) -> Path | None:
        """The whole content, by the hash that is noted or the whole one that is expected."""
        noted = self.record.read_text().partition(' ')[0] if self.record.is_file() else ''
        for digest in (noted, self.expected):
            file = self.folder / f'{digest}{self.suffix}'
            if len(digest) == 64 and digest.startswith(self.expected) and file.is_file():
                if not self.expected or _digest(file) == digest:
                    return file
                file.unlink()  # not what was fetched any more
        return None

    def keep(self, file: Path) -> Path:
        """Move a whole file to where its hash says, if it is the expected one."""
        digest = _digest(file)
        if not digest.startswith(self.expected):
            file.unlink()
            raise CheckpointError(
                f'{self.url!r} has the sha256 {digest} instead of {self.expected} and was removed: it has changed or '
                'was damaged on its way; if it is the right one, give its sha256= or download it and give its path.'
            )
        kept = self.folder / f'{digest}{self.suffix}'
        os.replace(file, kept)
        note = self.record.with_suffix('.new')
        note.write_text(f'{digest} {self.url}\n')
        os.replace(note, self.record)
        self.etag.unlink(missing_ok=True)
        return kept

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

    def download(self, progress: Progress) -> Path:
        """Fetch all of it, in several tries if need be."""
        for pause in (*_PAUSES, None):
            try:
                self.fetch(progress)
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
        raise CheckpointError(
            f'cannot fetch {self.url!r} ({reason}), and it is not in the cache; check address and connection, or put '
            f'the file at {self.by_hand}, or give its path instead.'
        )

    def fetch(self, progress: Progress) -> None:
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
                raise CheckpointError(f'{self.url!r} is a web page or empty; give the address of the file itself.')
            if response.length is None and not response.chunked and not self.expected:
                raise CheckpointError(
                    f'{self.url!r} comes without its length, so a broken connection would not be noticed; give sha256= '
                    'beside it, or download it and give its path.'
                )
            total = None if response.length is None else begin + response.length
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


def _progress(name: str) -> Progress:
    """A bar on the screen of the first process."""
    quiet = any(os.environ.get(rank, '0') != '0' for rank in _RANKS)
    columns = (
        TextColumn('{task.description}', markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    progress = Progress(*columns, console=Console(stderr=True, quiet=quiet))
    progress.add_task(name, total=None)
    return progress


def _digest(file: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open('rb') as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
