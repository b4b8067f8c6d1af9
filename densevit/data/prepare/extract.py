"""From an archive into a folder beside the data, so that nothing half-made is ever seen under its name.

Every archive has a staging folder of its own. A file is written under another name and renamed, so what has its name
is whole; a part of the data set waits there until it is complete and checked, and is renamed in one piece. A killed
run leaves the staging folder, and the next one with the same archive goes on with it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ...errors import UserError
from ...fetch import byte_progress
from .archives import Archive, Member
from .datasets import Source, Target

__all__ = ['extract', 'plan']

_CHUNK = 2**20  # bytes
_BLOCK = 4096  # bytes; files fill whole blocks
_MOST_CONVERTED = 2**26  # bytes of a file that is converted, in memory


def plan(archive: Archive, source: Source, wanted: Callable[[str], bool]) -> dict[str, Target]:
    """What to take of an archive: target of each member by its name.

    Args:
        archive: looked through.
        source: its form.
        wanted: whether a path below the data root is still missing.

    Raises:
        UserError: two members would become the same file.
    """
    targets: dict[str, Target] = {}
    taken: dict[str, str] = {}
    for member in archive.members:
        target = source.route(member.name)
        if target is None or not wanted(target.path):
            continue
        if target.path in taken:
            raise UserError(
                f'{str(archive.path)!r} is refused: {taken[target.path]!r} and {member.name!r} would both become '
                f'{target.path!r}.'
            )
        taken[target.path] = member.name
        targets[member.name] = target
    return targets


def extract(archive: Archive, targets: dict[str, Target], staging: Path, root: Path) -> int:
    """Write the members of an archive below ``staging``, leaving out what an earlier run has left there.

    Args:
        archive: looked through.
        targets: of :func:`plan`.
        staging: folder of this archive alone.
        root: the data root; what is there already is not extracted.

    Returns:
        the number of files written.

    Raises:
        UserError: the disk has no room, a file cannot be written, or the archive is damaged.
    """
    missing = {
        member.name: targets[member.name]
        for member in archive.members
        if member.name in targets and not _is_there(member, targets[member.name], staging, root)
    }
    sizes = [member.size for member in archive.members if member.name in missing]
    _check_space(staging, sum(-(-size // _BLOCK) * _BLOCK for size in sizes))
    try:
        for folder in {(staging / target.path).parent for target in missing.values()}:
            folder.mkdir(parents=True, exist_ok=True)
        with byte_progress(f'unpacking {archive.path.name}') as progress:
            bar = progress.task_ids[0]
            progress.update(bar, total=sum(sizes), completed=0)
            for member, content in archive.contents(missing):
                target = missing[member.name]
                _write(archive, member, content, target, staging)
                progress.update(bar, advance=member.size)
    except OSError as error:
        raise UserError(
            f'{str(staging)!r} cannot be written ({error.strerror or error}); make room, or give another folder with '
            '--to; the same command goes on from here.'
        ) from error
    return len(missing)


def _is_there(member: Member, target: Target, staging: Path, root: Path) -> bool:
    """Whether the file was extracted before, or is among the data already."""
    if (staging / target.path).exists():
        return True
    path = root / target.path
    if not os.path.lexists(path):
        return False
    size = path.stat().st_size if path.exists() else None
    if size is None or (size != member.size and not target.convert):
        is_now = 'is a broken link' if size is None else f'has {size} bytes'
        raise UserError(
            f'{str(path)!r} {is_now}, but in the archive it has {member.size}: it was not touched; remove or mend it, '
            'and others like it, and run the same command again.'
        )
    return True


def _write(archive: Archive, member: Member, content: BinaryIO, target: Target, staging: Path) -> None:
    if target.convert:
        if member.size > _MOST_CONVERTED:
            raise UserError(f'{member.name!r} in {str(archive.path)!r} has {member.size} bytes, too many for an image.')
        with archive.reading():
            data = content.read()
        try:
            data = target.convert(data)
        except Exception as error:  # pillow raises many kinds
            raise UserError(f'{member.name!r} in {str(archive.path)!r} cannot be converted: {error}.') from error
    writing = staging / '.writing'
    written = 0
    with writing.open('wb') as file:
        if target.convert:
            written = file.write(data)
        else:
            while True:
                with archive.reading():
                    chunk = content.read(_CHUNK)
                if not chunk:
                    break
                written += file.write(chunk)
    if not target.convert and written != member.size:
        raise UserError(
            f'the archive {str(archive.path)!r} is damaged: {member.name!r} ends after {written} of {member.size} '
            'bytes; get it again.'
        )
    os.replace(writing, staging / target.path)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f'{str(folder.parent)!r} has {free / 1e9:.1f} GB left, but {needed / 1e9:.1f} GB are to be unpacked; make '
            'room, or give another folder with --to.'
        )
