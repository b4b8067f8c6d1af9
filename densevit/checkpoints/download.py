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
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urldefrag, urlsplit

from ..fetch import Advice, Download, byte_progress, digest_of
from .errors import CheckpointError

__all__ = ['cache_folder', 'is_url', 'local_file']

# Of a name as torchvision, timm and mmengine publish: swin_t-704ceda3.pth.
_NAMED_HASH = re.compile(r'-([0-9a-f]{8,64})\.\w+$')
_DATE = re.compile(r'(19|20)\d\d[01]\d[0-3]\d')


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
    path = Path(os.path.expanduser(source))
    if os.path.isdir(path):
        raise CheckpointError(f'checkpoint {str(source)!r} does not exist as a file: it is a folder; give one in it.')
    if not os.path.isfile(path):  # Path's own raises where a name is too long
        raise CheckpointError(
            f'checkpoint {str(source)!r} does not exist; give the path or the URL of a .pth or .safetensors file.'
        )
    if expected and not (digest := digest_of(path)).startswith(expected):
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
        self.record, self.by_hand = (self.folder / 'urls' / f'{key}{suffix}' for suffix in ('.txt', self.suffix))
        self.source = Download(
            url,
            self.folder / 'urls' / key,
            Advice(
                failed=', and it is not in the cache; check address and connection, or put the file at '
                f'{self.by_hand}, or give its path instead.',
                elsewhere='set the environment variable DENSEVIT_CACHE to another folder',
                length='give sha256= beside it, or download it and give its path',
            ),
            needs_length=not expected,
            error=CheckpointError,
        )

    def get(self) -> Path:
        """The file in the cache, or fetched into it."""
        with self.source.writing():
            if found := self.find():
                return found
            self.record.parent.mkdir(parents=True, exist_ok=True)
            with byte_progress(self.name) as progress, self.source.alone(progress):
                return self.find() or self.keep(self.by_hand if self.by_hand.is_file() else self.source.fetch(progress))

    def find(self) -> Path | None:
        """The whole content, by the hash that is noted or the whole one that is expected."""
        noted = self.record.read_text().partition(' ')[0] if self.record.is_file() else ''
        for digest in (noted, self.expected):
            file = self.folder / f'{digest}{self.suffix}'
            if len(digest) == 64 and digest.startswith(self.expected) and file.is_file():
                if not self.expected or digest_of(file) == digest:
                    return file
                file.unlink()  # not what was fetched any more
        return None

    def keep(self, file: Path) -> Path:
        """Move a whole file to where its hash says, if it is the expected one."""
        digest = digest_of(file)
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
        self.source.etag.unlink(missing_ok=True)
        return kept
