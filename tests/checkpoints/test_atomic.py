"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from densevit.checkpoints import atomic
from densevit.checkpoints.atomic import (
    NotWrittenError,
    digest_file,
    is_damaged,
    remove_file,
    remove_leftovers,
    write_file,
    write_note,
)

OLD, NEW = b'old' * 100, b'new' * 1000


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_hash_is_one_that_sha256sum_takes(tmp_path):
    path = tmp_path / 'a folder' / 'iter_1.pth'
    write_file(path, NEW)
    assert path.read_bytes() == NEW and is_damaged(path) is False
    assert names(path.parent) == ['iter_1.pth', 'iter_1.pth.sha256']
    checked = subprocess.run(['sha256sum', '-c', 'iter_1.pth.sha256'], cwd=path.parent, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, 'iter_1.pth: OK\n')
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    path.write_bytes(NEW[:-1] + b'!')
    assert is_damaged(path) is True
    for note in (b'', b'short', b'\xff' * 70):
        digest_file(path).write_bytes(note)
        assert is_damaged(path) is None
    remove_file(path)
    assert is_damaged(path) is None and names(path.parent) == []
    remove_file(path)


def test_the_new_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    """In this order: content, its fsync, the old hash goes, rename, the folder's fsync; then the same for the hash."""
    owners = {'fsync': atomic.os, 'replace': Path, 'unlink': Path}  # pathlib of Python 3.10 keeps functions of os
    seen, real = [], {name: getattr(owner, name) for name, owner in owners.items()}

    def spy(name):
        def call(*args, **kwargs):
            what = os.readlink(f'/proc/self/fd/{args[0]}') if name == 'fsync' else str(args[-1])
            if os.path.lexists(what) or name == 'replace':
                seen.append((name, os.path.basename(what)))
            return real[name](*args, **kwargs)

        return call

    write_file(tmp_path / 'x.pth', OLD)
    for name, owner in owners.items():
        monkeypatch.setattr(owner, name, spy(name))
    write_file(tmp_path / 'x.pth', NEW)
    parts = (f'.x.pth.{os.getpid()}.part', f'.x.pth.sha256.{os.getpid()}.part')
    folder = tmp_path.name
    assert seen == [
        ('fsync', parts[0]),
        ('unlink', 'x.pth.sha256'),
        ('replace', 'x.pth'),
        ('fsync', folder),
        ('fsync', parts[1]),
        ('replace', 'x.pth.sha256'),
        ('fsync', folder),
    ]


@pytest.mark.parametrize('what', ['write', 'fsync', 'replace'])
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_what_cannot_be_written_changes_nothing(tmp_path, monkeypatch, what, code):
    path = tmp_path / 'iter_1.pth'
    write_file(path, OLD)

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def write(self, content):
            self.file.write(content[:7])
            fail()

    if what == 'write':
        opened = atomic.Path.open
        monkeypatch.setattr(atomic.Path, 'open', lambda path, mode='r': Full(opened(path, mode)))
    elif what == 'fsync':
        monkeypatch.setattr(atomic.os, 'fsync', fail)
    else:
        monkeypatch.setattr(atomic.Path, 'replace', fail)
    with pytest.raises(NotWrittenError, match=rf'iter_1.*\({os.strerror(code)}\); the file of this name') as caught:
        write_file(path, NEW)
    assert caught.value.full is (code in (errno.ENOSPC, errno.EDQUOT))
    with pytest.raises(NotWrittenError, match=r'last_checkpoint.*nothing of it is left'):
        write_note(tmp_path / 'last_checkpoint', 'x')
    monkeypatch.undo()
    assert path.read_bytes() == OLD
    # where only the rename fails, the old hash is gone already
    assert names(tmp_path) == ['iter_1.pth', 'iter_1.pth.sha256'][: 1 if what == 'replace' else 2]


def test_room_is_looked_for_before(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(atomic.shutil, 'disk_usage', lambda path: usage._replace(free=2_000))
    write_file(tmp_path / 'a.pth', b'x' * 2_000)
    monkeypatch.setattr(atomic, '_write', lambda *arguments: pytest.fail('written'))
    with pytest.raises(NotWrittenError, match=r'No space.* takes 3\.0 MB, and 2\.0 kB are free.*make room') as caught:
        write_file(tmp_path / 'a.pth', b'x' * 3_000_000)
    assert caught.value.full


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(NotWrittenError, match='File exists') as caught:
        write_file(tmp_path / 'file' / 'a.pth', NEW)
    assert not caught.value.full


def test_leftovers(tmp_path):
    write_file(tmp_path / 'iter_1.pth', OLD)
    others = ['.hidden', '.part', 'mine.part', '.mine.part', '.x.1a.part', 'notes.sha256']
    for name in others:
        (tmp_path / name).touch()
    for name in ('.iter_2.pth.77.part', '.iter_1.pth.sha256.1.part', 'iter_9.pth.sha256'):
        (tmp_path / name).touch()
    assert remove_leftovers(tmp_path) == ['.iter_1.pth.sha256.1.part', '.iter_2.pth.77.part']
    assert names(tmp_path) == sorted([*others, 'iter_1.pth', 'iter_1.pth.sha256'])
