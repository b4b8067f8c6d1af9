"""From archives or the web to the data sets that the shipped configs read; tools/prepare_data.py calls it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from ..data.prepare.archives import Archive, open_archive
from ..data.prepare.datasets import DATASETS, DataSet, Remote, Source
from ..data.prepare.extract import extract, plan
from ..data.prepare.layout import PartState, install, look, refuse_links
from ..data.prepare.recognise import recognise
from ..errors import UserError
from ..fetch import Advice, Download, byte_progress, digest_of

__all__ = ['default_root', 'prepare_data']

_STAGING = '.preparing'
_RECORD = 'prepared.json'
_DOWNLOADS = 'downloads'


def default_root(dataset: DataSet) -> Path:
    """Where the configs look, as long as nothing says otherwise."""
    return Path(os.environ.get('DENSEVIT_DATA', 'data')) / dataset.folder


def prepare_data(args: argparse.Namespace) -> int:
    """Make a data set complete, as far as the archives at hand go, and report.

    Args:
        args: of tools/prepare_data.py: ``dataset``, ``archive``, ``download``, ``url``, ``to``.

    Returns:
        exit status: 0 where the data set is complete, otherwise 1.

    Raises:
        UserError: an archive is the wrong one, or broken, or does harm; there is no room; what was linked or changed
            by hand is in the way.
    """
    dataset = DATASETS[args.dataset]
    root = Path(args.to or default_root(dataset)).expanduser().absolute()
    if args.url and not args.download:
        raise UserError('--url says where to download from: add --download.')
    states = look(dataset, root)
    print(f'{dataset.name}: {dataset.title}, in {root}')
    if all(state.complete for state in states) or not (args.archive or args.download):
        return _report(dataset, root, states, 'complete already, nothing to do')
    for state in states:
        if not state.complete:
            refuse_links(state.part, root)
    # all of them before the first is unpacked: a wrong one is said at once, and nothing was written
    archives = [open_archive(Path(path).expanduser()) for path in args.archive or ()]
    sources = [_recognise(dataset, archive) for archive in archives]
    with _working_in(root):
        for archive, source in zip(archives, sources):
            _prepare_from(dataset, archive, source, root, {'file': str(archive.path.absolute())})
        if args.download:
            _download_missing(dataset, root, args.url or ())
        states = look(dataset, root)
        if all(state.complete for state in states):
            shutil.rmtree(root / _STAGING)
    return _report(dataset, root, states, 'complete')


@contextmanager
def _working_in(root: Path) -> Iterator[None]:
    """Keep others out of the folder, and say where it was that the disk was full or closed."""
    try:
        (root / _STAGING).mkdir(parents=True, exist_ok=True)
        with FileLock(root / f'{_STAGING}.lock', blocking=False):
            yield
    except Timeout as error:
        raise UserError(f'another process is preparing {str(root)!r}: wait for it.') from error
    except OSError as error:
        raise UserError(
            f'{str(root)!r} cannot be written ({error.strerror or error}); make room, or give another folder with --to.'
        ) from error
    (root / f'{_STAGING}.lock').unlink(missing_ok=True)


def _recognise(dataset: DataSet, archive: Archive) -> Source:
    return recognise(dataset, [member.name for member in archive.members], str(archive.path))


def _prepare_from(dataset: DataSet, archive: Archive, source: Source, root: Path, origin: dict[str, str]) -> None:
    """Take out of an archive what is missing."""
    missing = [state.part.path for state in look(dataset, root) if not state.complete]

    def wanted(path: str) -> bool:
        return source.finish is not None or any(path == part or path.startswith(f'{part}/') for part in missing)

    targets = plan(archive, source, wanted) if missing else {}
    print(f'{archive.path.name}: {source.what}')
    if not targets:
        print('  nothing in it is missing here')
        return
    digest = _hash(archive.path, 'sha256')
    print(f'  sha256 {digest}')
    _compare(dataset, archive.path, digest)
    staging = root / _STAGING / digest[:16]
    staging.mkdir(exist_ok=True)
    # what is made of all files needs all of them, also those that are in place
    written = extract(archive, targets, staging, staging if source.finish else root)
    earlier = f', {len(targets) - written} were there from an earlier run' if written < len(targets) else ''
    print(f'  unpacked {written} files{earlier}')
    try:
        if source.finish:
            source.finish(staging)
        done = install(dataset, staging, root)
    except UserError:
        shutil.rmtree(staging)  # it will not become right
        raise
    for state in look(dataset, staging):
        if state.found and state.part.path in missing and state.part not in done:
            print(f'  {state.part.path}: {state} in this archive, too few to be put into place')
    shutil.rmtree(staging)
    _record(root, {**origin, 'sha256': digest, 'form': source.what})


def _hash(path: Path, algorithm: str) -> str:
    with byte_progress(f'hashing {path.name}') as progress:
        progress.update(progress.task_ids[0], total=path.stat().st_size)
        return digest_of(path, algorithm, progress)


def _compare(dataset: DataSet, path: Path, sha256: str) -> None:
    """Say whether a file is the published one of its name; if not, it may have been packed anew."""
    for remote in dataset.remotes:
        algorithm, _, published = remote.digest.partition(':')
        if remote.name == path.name and published:
            if published == (sha256 if algorithm == 'sha256' else _hash(path, algorithm)):
                print(f'  the published {remote.name}')
            else:
                print(f'  not the published file of this name, whose {algorithm} is {published}: packed anew?')


def _record(root: Path, entry: dict[str, str]) -> None:
    """Note which archive the data came from; of no use to the configs."""
    file = root / _RECORD
    try:
        entries = json.loads(file.read_text())['archives']
    except (OSError, ValueError, KeyError, TypeError):
        entries = []
    entry = {**entry, 'date': time.strftime('%Y-%m-%d')}
    entries = [each for each in entries if each.get('sha256') != entry['sha256']] + [entry]
    beside = file.with_suffix('.new')
    beside.write_text(json.dumps({'archives': entries}, indent=2) + '\n')
    os.replace(beside, file)


# ---------------------------------------------------------------------------------------------------------- the web
def _download_missing(dataset: DataSet, root: Path, urls: list[str]) -> None:
    missing = {state.part.path for state in look(dataset, root) if not state.complete}
    remotes = [remote for remote in dataset.remotes if missing & set(remote.parts)]
    addresses = _addresses(dataset, remotes, urls)
    folder = root / _DOWNLOADS
    folder.mkdir(exist_ok=True)
    here = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    needed = sum(2 * remote.size for remote in remotes) - here  # JPEGs unpack to about their size in the archive
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UserError(
            f'{str(root)!r} has {free / 1e9:.1f} GB left, but archives and unpacked data take about '
            f'{needed / 1e9:.1f} GB; make room, or give another folder with --to.'
        )
    for remote in remotes:
        path = folder / remote.name
        url = addresses[remote.name]
        archive = open_archive(path) if path.exists() else _fetch(remote, url, path)
        _prepare_from(dataset, archive, _recognise(dataset, archive), root, {'url': url})


def _addresses(dataset: DataSet, remotes: list[Remote], urls: list[str]) -> dict[str, str]:
    """Where each archive comes from: ``urls`` are of archives by their names, or of the folder that holds all."""
    addresses = {remote.name: remote.url for remote in remotes}
    for url in urls:
        if not url.lower().startswith(('http://', 'https://')):
            raise UserError(f'--url {url!r} is no address of the web; files on this machine go to --archive.')
        name = urlsplit(url).path.rpartition('/')[2]
        if any(name == remote.name for remote in dataset.remotes):
            addresses[name] = url
        elif len(dataset.remotes) == 1 and '.' in name:
            addresses = {remote.name: url for remote in remotes}
        else:
            addresses = {remote.name: f'{url.rstrip("/")}/{remote.name}' for remote in remotes}
    return addresses


def _fetch(remote: Remote, url: str, path: Path) -> Archive:
    """Download an archive, whole and right, to ``path``."""
    advice = Advice(
        failed='; check address and connection, and run the same command again to go on, or get the file in another '
        'way and give it with --archive, or the address of a mirror with --url.',
        elsewhere='give another folder with --to',
        length='get the file in another way and give it with --archive',
    )
    download = Download(url, path, advice, needs_length=False)  # a cut archive is found out by its end
    with byte_progress(remote.name) as progress, download.alone(progress):
        part = download.fetch(progress)
    algorithm, _, expected = remote.digest.partition(':')
    if expected and (digest := _hash(part, algorithm)) != expected:
        part.unlink()
        raise UserError(
            f'{url!r} has the {algorithm} {digest} instead of {expected} and was removed: it was damaged on its way, '
            f'or is another file than the published {remote.name}; if you trust it, get it in another way and give it '
            'with --archive.'
        )
    try:
        open_archive(part)
    except UserError as error:
        part.unlink()
        raise UserError(f'what came from {url!r} was removed: {error}') from error
    os.replace(part, path)
    for leftover in (download.etag, download.lock):
        leftover.unlink(missing_ok=True)
    return open_archive(path)


# ----------------------------------------------------------------------------------------------------------- report
def _report(dataset: DataSet, root: Path, states: list[PartState], when_complete: str) -> int:
    width = max(len(state.part.path) for state in states)
    for state in states:
        print(f'  {state.part.path:{width}}  {state}')
    missing = {state.part.path for state in states if not state.complete}
    if not missing:
        moved = '' if root == default_root(dataset).absolute() else f' --cfg-options data_root={root}'
        print(f'{when_complete}: python tools/train.py {dataset.config}{moved}')
        downloads = root / _DOWNLOADS
        if downloads.is_dir() and (size := sum(path.stat().st_size for path in downloads.iterdir())):
            print(f'{downloads} ({size / 1e9:.1f} GB) is not needed any more')
        return 0
    print('not complete; --download gets what is missing, or give these with --archive:')
    for remote in dataset.remotes:
        if missing & set(remote.parts):
            print(f'  {remote.url} ({remote.size / 1e9:.1f} GB)')
    return 1
