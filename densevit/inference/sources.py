"""What is to be predicted: images, folders, patterns, lists of files, videos, webcams."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import cv2
import numpy as np

from ..errors import UserError

__all__ = ['Frames', 'Source', 'find_sources']

_IMAGES = frozenset('.avif .bmp .gif .jpeg .jpg .jp2 .pbm .pgm .png .ppm .tga .tif .tiff .webp'.split())
_VIDEOS = frozenset('.avi .m4v .mkv .mov .mp4 .mpeg .mpg .webm .wmv'.split())
_WEBCAM = re.compile(r'webcam:(\d+)')
_FPS = 25.0  # of a camera or a file that does not tell


@dataclass(frozen=True)
class Source:
    """One image, video or camera.

    Attributes:
        path: the file, or ``'webcam:0'``.
        file_name: how it is called in results: its path below the folder that was given, or its name.
        name: where its results go, a path without a suffix below the folder of results; no two sources have the same.
        kind: what it is.
    """

    path: str
    file_name: str
    name: str
    kind: Literal['image', 'video', 'webcam'] = 'image'


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """What some inputs mean, in their order, each file once.

    An input is a file; a folder, of which all images and videos below it are taken, but for hidden ones; a pattern such
    as ``'photos/**/*.png'``; a ``.txt`` file with a path per line, relative to its own folder, where empty lines and
    those that begin with ``#`` count for nothing; or ``webcam:0``, a camera by its number.

    Raises:
        UserError: inputs are not there, or there is no image and no video in them; the message names all of these.
    """
    found: dict[str, tuple[str, PurePosixPath]] = {}
    wrong: dict[str, list[str]] = {}  # inputs by what is wrong with them
    for text in inputs:
        try:
            files = list(_expanded(text))
            if not files:
                what = 'folder' if os.path.isdir(text) else 'list' if text.endswith('.txt') else 'pattern'
                raise UserError(f'there is no image and no video in this {what}')
        except UserError as error:
            wrong.setdefault(str(error), []).append(repr(text))
            continue
        for path, relative in files:
            found.setdefault(path if _WEBCAM.fullmatch(path) else os.path.realpath(path), (path, relative))
    if wrong:
        each = (f'{", ".join(dict.fromkeys(texts))}: {reason}' for reason, texts in wrong.items())
        raise UserError(f'input {"; ".join(each)}.')
    return _named(list(found.values()))


def _expanded(text: str) -> Iterator[tuple[str, PurePosixPath]]:
    """Files, and how they are called in results.

    Raises:
        UserError: the input is not there; the message says what is wrong, and not with what.
    """
    if _WEBCAM.fullmatch(text):
        yield text, PurePosixPath(text.replace(':', '_'))
        return
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path):  # Path's own raises where a name is too long
        yield from _below(path, path)
    elif os.path.isfile(path) and path.suffix.lower() == '.txt':
        lines = [line.strip() for line in _lines(path)]
        lines = [line for line in lines if line and not line.startswith('#')]
        if missing := [line for line in lines if not os.path.isfile(path.parent / line)]:
            listed = ', '.join(map(repr, missing))
            raise UserError(
                f'it lists {listed}, and there is no such file (paths are relative to the folder of the list)'
            )
        for line in lines:
            own = PurePosixPath(line)
            name = PurePosixPath(own.name) if own.is_absolute() or '..' in own.parts else own
            yield str(path.parent / line), name
    elif os.path.isfile(path):
        yield str(path), PurePosixPath(path.name)
    elif glob.has_magic(str(path)):
        fixed = next(index for index, part in enumerate(path.parts) if glob.has_magic(part))
        base = Path(*path.parts[:fixed])
        for match in sorted(glob.glob(str(path), recursive=True)):
            if os.path.isdir(match):
                yield from () if '**' in path.parts else _below(Path(match), base)
            elif Path(match).suffix.lower() in _IMAGES | _VIDEOS:
                yield match, PurePosixPath(Path(match).relative_to(base).as_posix())
    else:
        raise UserError('there is no such file or folder')


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding='utf-8-sig').splitlines()  # Windows puts a mark before the first line
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'the list cannot be read as UTF-8 text ({error})') from None


def _below(folder: Path, base: Path) -> Iterator[tuple[str, PurePosixPath]]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith('.'))
        for name in sorted(files):
            file = Path(parent, name)
            if file.suffix.lower() in _IMAGES | _VIDEOS and not name.startswith('.'):
                yield str(file), PurePosixPath(file.relative_to(base).as_posix())


def _named(files: Sequence[tuple[str, PurePosixPath]]) -> list[Source]:
    """Give every file results of its own: ``a.jpg`` and ``a.png`` become ``a_jpg`` and ``a_png``, the rest is counted.

    Names that differ by case only are equal on some disks.
    """
    suffixes: dict[str, set[str]] = {}
    for _, relative in files:
        suffixes.setdefault(str(relative.with_suffix('')).casefold(), set()).add(relative.suffix)
    names = Counter(str(relative) for _, relative in files)
    taken: set[str] = set()
    sources = []
    for path, relative in files:
        plain = relative.with_suffix('')
        if len(suffixes[str(plain).casefold()]) > 1 and relative.suffix:
            plain = plain.with_name(f'{plain.name}_{relative.suffix[1:]}')
        name, number = str(plain), 1
        while name.casefold() in taken or (number > 1 and name.casefold() in suffixes):
            number += 1
            name = f'{plain}_{number}'
        taken.add(name.casefold())
        unique = names[str(relative)] == 1
        source = Source(path, str(relative) if unique else Path(path).as_posix(), name)
        if _WEBCAM.fullmatch(path):
            source = replace(source, kind='webcam')
        elif relative.suffix.lower() in _VIDEOS:
            source = replace(source, kind='video')
        sources.append(source)
    return sources


class Frames:
    """The frames of a video or camera, each RGB, (H, W, 3) uint8.

    Attributes:
        fps: frames per second; 25 where nobody tells.
        count: about how many there are; None of a camera.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(self, source: Source) -> None:
        camera = _WEBCAM.fullmatch(source.path)
        if not camera and not os.path.isfile(source.path):  # of a named pipe, OpenCV would wait for ever
            raise UserError(f'cannot read {source.path!r}: there is no such file.')
        self._capture = cv2.VideoCapture(int(camera[1]) if camera else source.path)
        if not self._capture.isOpened():
            what = 'there is no such camera' if camera else 'it is no video that OpenCV can decode, or it is damaged'
            raise UserError(f'cannot read {source.path!r}: {what}.')
        fps, count = (self._capture.get(each) for each in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.fps = fps if 0 < fps <= 1000 else _FPS
        self.count = int(count) if count > 0 and not camera else None

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        """Let go of the file or camera."""
        self._capture.release()
