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
        UserError: an input is not there, or there is no image and no video in it.
    """
    found: dict[str, tuple[str, PurePosixPath]] = {}
    for text in inputs:
        before = len(found)
        known = False
        for path, relative in _expanded(text):
            key = path if _WEBCAM.fullmatch(path) else os.path.realpath(path)
            known = known or key in found
            found.setdefault(key, (path, relative))
        if len(found) == before and not known:
            what = 'folder' if os.path.isdir(text) else 'list' if text.endswith('.txt') else 'pattern'
            raise UserError(f'input {text!r}: there is no image and no video in this {what}.')
    return _named(list(found.values()))


def _expanded(text: str) -> Iterator[tuple[str, PurePosixPath]]:
    """Files, and how they are called in results."""
    if _WEBCAM.fullmatch(text):
        yield text, PurePosixPath(text.replace(':', '_'))
        return
    path = Path(text).expanduser()
    if path.is_dir():
        yield from _below(path, path)
    elif path.is_file() and path.suffix.lower() == '.txt':
        for line in path.read_text(encoding='utf-8').splitlines():
            if line.strip() and not line.lstrip().startswith('#'):
                listed = path.parent / line.strip()
                if not listed.is_file():
                    raise UserError(f'input {text!r}: it lists {line.strip()!r}, and there is no file {str(listed)!r}.')
                own = PurePosixPath(line.strip())
                yield str(listed), PurePosixPath(own.name) if own.is_absolute() or '..' in own.parts else own
    elif path.is_file():
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
        raise UserError(f'input {text!r}: there is no such file or folder.')


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
    names = Counter(str(relative).casefold() for _, relative in files)
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
        unique = names[str(relative).casefold()] == 1
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
