"""Which of a run's checkpoints to go on from."""

from __future__ import annotations

import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

from ..errors import UserError
from .errors import CheckpointError
from .read import check_digest, read_checkpoint
from .safe import load_torch_file

__all__ = ['Newest', 'check_whole', 'newest_checkpoint']

# Names of the checkpoints that a run leaves as it goes.
_SAVED = re.compile(r'(iter|epoch)_(\d+)\.pth')


@dataclass(frozen=True)
class Newest:
    """The newest intact checkpoint.

    Attributes:
        path: of the file, or its URL; None where no run has left any.
        skipped: of each that is newer and not intact, a sentence that says why.
    """

    path: str | None
    skipped: tuple[str, ...] = ()


def newest_checkpoint(work_dir: str | Path) -> Newest:
    """The checkpoint that a run left last, or the newest before it that is intact.

    ``last_checkpoint`` holds the path of the one written last, which is wrong in a folder that has been moved; a
    run that was killed may have written another after it.

    Raises:
        UserError: a run was there, and none of its checkpoints is intact, or one would have to run code.
    """
    folder = Path(work_dir)
    note = folder / 'last_checkpoint'
    candidates = _candidates(folder, note)
    skipped = []
    for path in candidates:
        try:
            check_whole(path)
        except CheckpointError as error:
            if isinstance(error.__cause__, UnpicklingError) and 'GLOBAL' in str(error.__cause__):  # whole, but refused
                raise
            skipped.append(str(error))
            continue
        return Newest(str(path), tuple(skipped))
    if candidates or note.is_file():
        raise UserError(
            f'--resume: no checkpoint of the run in {str(work_dir)!r} can be read; leave --resume out to start anew, '
            f'or name another checkpoint behind it.{"".join(f" {reason}" for reason in skipped)}'
        )
    return Newest(None)


def check_whole(path: Path) -> None:
    """Hold a file against its hash; where it has none, read all of it.

    Raises:
        CheckpointError: it is not as it was written, or cannot be read.
    """
    if not os.path.isfile(path):  # a folder; a named pipe would be waited for
        raise CheckpointError(f'{str(path)!r} is no file.')
    if check_digest(path):
        return
    with path.open('rb') as file:
        head = file.read(2)
    # torch would take an empty or a cut one for one of its old files, which were no archives
    if head in (b'', b'PK'):
        _check_archive(path)
    read_checkpoint(path)


def _check_archive(path: Path) -> None:
    """Look at the checksums, which torch writes and does not look at; a damaged file may ask for anything."""
    try:
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f'{str(path)!r} is {"cut short" if path.stat().st_size else "empty"}.')
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except CheckpointError:
        raise
    except Exception as error:  # of a broken archive, Python's reader can raise many kinds
        raise CheckpointError(f'{str(path)!r} is damaged: {error}.') from error
    if broken is not None:
        raise CheckpointError(f'{str(path)!r} is damaged: {broken} in it does not have its checksum.')


def _candidates(folder: Path, note: Path) -> list[Path]:
    """Those that are younger than the note, the noted one, and the others from the newest."""
    saved = {path: match for path in folder.glob('*.pth') if (match := _SAVED.fullmatch(path.name))}
    mixed = len({match[1] for match in saved.values()}) > 1
    numbers = {path: _iterations(path) if mixed else int(match[2]) for path, match in saved.items()}
    ordered = sorted(numbers, key=lambda path: numbers[path], reverse=True)
    noted = _noted(folder, note)
    if noted is None:
        return ordered
    # A run that went back to an older checkpoint has others before it that are none of its own.
    since = note.stat().st_mtime_ns
    number = numbers.get(noted, float('inf'))
    younger = [path for path in ordered if numbers[path] > number and path.stat().st_mtime_ns > since]
    return list(dict.fromkeys((*younger, noted, *ordered)))


def _noted(folder: Path, note: Path) -> Path | None:
    """The file whose path is noted, in this folder if it has been moved."""
    if not note.is_file():
        return None
    try:
        noted = Path(note.read_text(encoding='utf-8').strip())
    except (OSError, UnicodeDecodeError):
        return None
    if not noted.name:
        return None
    return next((place for place in (folder / noted.name, noted) if os.path.isfile(place)), None)


def _iterations(path: Path) -> float:
    """After how many iterations a checkpoint was written; of one that cannot be read, inf, so that it is looked at."""
    try:
        return load_torch_file(path, map_location='cpu', mmap=True)['meta']['iter']  # tensors stay on the disk
    except Exception:  # of a broken file, torch's reader can raise anything
        return float('inf')
