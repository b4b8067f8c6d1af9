"""Which of a run's checkpoints is taken to go on from."""

from __future__ import annotations

import io
import os

import pytest
import torch

from densevit.checkpoints import CheckpointError, read_checkpoint
from densevit.checkpoints.atomic import digest_file, write_file
from densevit.checkpoints.newest import check_whole, newest_checkpoint
from densevit.errors import UserError
from tests.checkpoints.hostile import hostile


def write(path, iteration=0, with_hash=True):
    content = io.BytesIO()
    torch.save({'meta': {'iter': iteration}, 'state_dict': {'a': torch.arange(1000.0) + iteration}}, content)
    write_file(path, content.getvalue())
    if not with_hash:
        digest_file(path).unlink()
    return path


def flip(path, share=0.5):
    """Change one bit of the tensor's bytes, which no reader of torch notices."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 1
    path.write_bytes(content)


def note(folder, text, after=0):
    """Note the newest checkpoint, some seconds after now."""
    path = folder / 'last_checkpoint'
    path.write_text(text)
    now = path.stat().st_mtime_ns + after * 10**9
    os.utime(path, ns=(now, now))


def test_no_run(tmp_path):
    assert newest_checkpoint(tmp_path) == newest_checkpoint(tmp_path / 'absent')
    write(tmp_path / 'best_mIoU_iter_4.pth')
    found = newest_checkpoint(tmp_path)
    assert (found.path, found.skipped) == (None, ())


@pytest.mark.parametrize('with_hash', [True, False])
def test_what_is_damaged_is_skipped_and_named(tmp_path, with_hash):
    for number in (2, 9, 10, 11, 100):
        write(tmp_path / f'iter_{number}.pth', number, with_hash)
    note(tmp_path, str(tmp_path / 'iter_100.pth'))
    flip(tmp_path / 'iter_100.pth')
    torch.load(tmp_path / 'iter_100.pth')  # torch is content
    (tmp_path / 'iter_11.pth').write_bytes((tmp_path / 'iter_11.pth').read_bytes()[:-1000])
    (tmp_path / 'iter_10.pth').write_bytes(b'')
    found = newest_checkpoint(tmp_path)
    assert found.path == str(tmp_path / 'iter_9.pth')
    assert all(f'iter_{number}.pth' in reason for number, reason in zip((100, 11, 10), found.skipped, strict=True))
    assert 'damaged' in found.skipped[0] and ('SHA-256' in found.skipped[0]) is with_hash
    for number in (2, 9):
        (tmp_path / f'iter_{number}.pth').write_bytes(b'PK')
    with pytest.raises(UserError, match=r'no checkpoint of the run.*iter_100.*iter_11.*iter_2'):
        newest_checkpoint(tmp_path)


def test_whoever_reads_a_damaged_file_is_told(tmp_path):
    path = write(tmp_path / 'best_mIoU_iter_4.pth')
    flip(path)
    with pytest.raises(CheckpointError, match=r"best_mIoU_iter_4.pth' is damaged: its SHA-256.*to be deleted"):
        read_checkpoint(path)
    digest_file(path).unlink()
    read_checkpoint(path)
    with pytest.raises(CheckpointError, match='does not have its checksum'):
        check_whole(path)


def test_the_note_decides_where_a_run_went_back(tmp_path):
    """iter_30 is of an earlier attempt; a file that came after the note was written before it could be noted."""
    for number in (10, 30, 20):
        write(tmp_path / f'iter_{number}.pth', number)
    note(tmp_path, '/before/it/was/moved/iter_20.pth', after=1)
    assert newest_checkpoint(tmp_path).path == str(tmp_path / 'iter_20.pth')
    note(tmp_path, str(tmp_path / 'iter_20.pth'), after=-100)
    assert newest_checkpoint(tmp_path).path == str(tmp_path / 'iter_30.pth')
    for text in ('', '\n', 'iter_99.pth', '/', '.'):
        note(tmp_path, text, after=1)
        assert newest_checkpoint(tmp_path).path == str(tmp_path / 'iter_30.pth')
    (tmp_path / 'last_checkpoint').write_bytes(b'\xff\xfe')
    assert newest_checkpoint(tmp_path).path == str(tmp_path / 'iter_30.pth')


def test_names_of_ones_own_are_found_by_the_note(tmp_path):
    write(tmp_path / 'iter_10.pth')
    write(tmp_path / 'mine-5.pth')
    note(tmp_path, str(tmp_path / 'mine-5.pth'), after=-100)
    assert newest_checkpoint(tmp_path).path == str(tmp_path / 'mine-5.pth')
    flip(tmp_path / 'mine-5.pth')
    assert newest_checkpoint(tmp_path).path == str(tmp_path / 'iter_10.pth')


def test_epochs_and_a_stop_between_them(tmp_path):
    write(tmp_path / 'epoch_9.pth', 90)
    write(tmp_path / 'epoch_10.pth', 100)
    write(tmp_path / 'iter_95.pth', 95)
    assert newest_checkpoint(tmp_path).path == str(tmp_path / 'epoch_10.pth')
    write(tmp_path / 'iter_107.pth', 107)
    assert newest_checkpoint(tmp_path).path == str(tmp_path / 'iter_107.pth')
    (tmp_path / 'epoch_11.pth').write_bytes(b'PK')
    found = newest_checkpoint(tmp_path)
    assert found.path == str(tmp_path / 'iter_107.pth') and 'epoch_11' in found.skipped[0]


def test_a_file_that_would_run_code_is_not_passed_over(tmp_path):
    write(tmp_path / 'iter_2.pth')
    mark = hostile(tmp_path / 'iter_10.pth', {'state_dict': {'a': torch.zeros(1)}})
    with pytest.raises(UserError, match=r'iter_10.*--trust-checkpoint'):
        newest_checkpoint(tmp_path)
    assert not mark.exists()
