"""Archives that would do harm, or are none; and thousands of damaged ones."""

from __future__ import annotations

import io
import random
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from densevit.data.prepare import archives as module
from densevit.data.prepare.archives import open_archive
from densevit.data.prepare.extract import extract, plan
from densevit.data.prepare.recognise import recognise
from densevit.errors import UserError

from .archive_files import ade20k, with_counts, write_tar, write_zip

FILES = {'a/one.txt': b'1' * 1000, 'a/two.txt': b'', 'three.bin': bytes(range(256)) * 300}


def refused(path: Path) -> str:
    """The one sentence that a bad archive gets."""
    with pytest.raises(UserError) as caught:
        open_archive(path)
    message = str(caught.value)
    assert str(path) in message and '\n' not in message
    return message


# ------------------------------------------------------------------------------------------------------- harmless
@pytest.mark.parametrize('kind', ['zip', '', 'gz', 'bz2', 'xz'])
def test_contents(tmp_path, kind):
    # the name says nothing
    path = write_zip(tmp_path / 'x.tar', FILES) if kind == 'zip' else write_tar(tmp_path / 'x.zip', FILES, kind)
    archive = open_archive(path)
    assert archive.kind == ('zip' if kind == 'zip' else 'tar')
    assert {member.name: member.size for member in archive.members} == {k: len(v) for k, v in FILES.items()}
    for _ in range(2):  # as often as one likes
        found = {member.name: content.read() for member, content in archive.contents({'a/one.txt', 'three.bin'})}
        assert found == {name: FILES[name] for name in ('a/one.txt', 'three.bin')}


def test_folders_are_not_members(tmp_path):
    (tmp_path / 'in' / 'folder').mkdir(parents=True)
    (tmp_path / 'in' / 'folder' / 'x').write_text('x')
    with tarfile.open(tmp_path / 'x.tar', 'w') as archive:
        archive.add(tmp_path / 'in', './in')
    assert [member.name for member in open_archive(tmp_path / 'x.tar').members] == ['./in/folder/x']


# ------------------------------------------------------------------------------------------------- not an archive
@pytest.mark.parametrize('content, words', [
    (b'', 'is empty'),
    (b'<!DOCTYPE html><title>Sign in</title>', r"a web page .*<title>Sign in"),
    (b'\n  <HTML>\n<body>quota exceeded', 'a web page .*quota exceeded'),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', 'a web page .*AccessDenied'),
    (b'{"message": "Not Found"}', 'a web page or a message .*Not Found'),
    (b'7z\xbc\xaf\x27\x1c\0\4', 'is a 7z archive'),
    (b'Rar!\x1a\7\0', 'is a RAR archive'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:1', 'is a Git LFS pointer'),
    (b'\xff\xd8\xff\xe0 a JPEG', 'neither a zip nor a tar'),
    (b'\0' * 2000, 'neither a zip nor a tar'),
    (b'\x1f\x8b\x08\0 no gzip', 'cut off or damaged'),
])  # fmt: skip
def test_what_is_none_is_named(tmp_path, content, words):
    path = tmp_path / 'ADEChallengeData2016.zip'
    path.write_bytes(content)
    message = refused(path)
    assert re.search(words, message), message


def test_no_such_file_and_a_folder(tmp_path):
    assert 'does not exist' in refused(tmp_path / 'x.zip')
    assert 'is a folder' in refused(tmp_path)


@pytest.mark.parametrize('kind', ['zip', '', 'gz', 'bz2', 'xz'])
def test_cut_at_any_place(tmp_path, kind):
    path = tmp_path / 'x'
    files = {name: random.Random(name).randbytes(1500) for name in ('a', 'b')}
    write_zip(path, files) if kind == 'zip' else write_tar(path, files, kind)
    content = path.read_bytes()
    end = len(content.rstrip(b'\0')) if kind == '' else len(content)  # a tar ends in thousands of zeros
    for size in sorted({1, 30, 511, 512, 513, 1024, 2048, end // 2, end - 600, end - 20, end - 1}):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match='cut off or damaged|neither a zip'):
            open_archive(path)
    path.write_bytes(content[: len(content) // 2])
    if kind == 'zip':
        assert 'table of contents, which a zip has at its end, is missing' in refused(path)


def test_damage_inside_shows_when_it_is_read(tmp_path):
    path = write_zip(tmp_path / 'x.zip', {'a': random.Random(0).randbytes(5000)})
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    archive = open_archive(path)
    with pytest.raises(UserError, match="damaged .*Bad CRC-32 for file 'a'"):
        for _, file in archive.contents({'a'}):
            with archive.reading():
                file.read()


def test_what_bz2_says_of_damage(tmp_path):
    archive = open_archive(write_tar(tmp_path / 'x.tar', FILES))
    with pytest.raises(UserError, match='damaged .*Invalid data stream'), archive.reading():
        raise OSError('Invalid data stream')


# ------------------------------------------------------------------------------------------------------- harmful
NAMES = [
    ('../x', 'leaves'), ('a/../../x', 'leaves'), ('a/..', 'leaves'), ('./../x', 'leaves'), ('/etc/x', 'absolute'),
    ('//x', 'absolute'), ('C:/x', 'absolute'), ('C:x', 'absolute'), ('..\\x', 'backslash'), ('a\\..\\x', 'backslash'),
    ('a/\x00/x', 'control'), ('a\nb', 'control'), ('a//x', 'odd'), ('a/./x', 'odd'), ('a/' * 600 + 'x', 'odd'),
]  # fmt: skip


@pytest.mark.parametrize('name, why', NAMES)
@pytest.mark.parametrize('kind', ['zip', 'gz'])
def test_names_that_leave(tmp_path, kind, name, why):
    if kind == 'zip':
        path = write_zip(tmp_path / 'x.zip', {'good': b'1'})
        with zipfile.ZipFile(path, 'a') as archive:
            info = zipfile.ZipInfo('y' * len(name))
            archive.writestr(info, b'2')
        # zipfile would mend the name
        path.write_bytes(path.read_bytes().replace(b'y' * len(name), name.encode()))
    else:
        if '\0' in name:
            pytest.skip('a tar cuts names there')
        path = write_tar(tmp_path / 'x.tgz', {'good': b'1', name: b'2'})
    message = refused(path)
    assert why in message and 'nothing was unpacked' in message


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar(tmp_path, kind):
    path = tmp_path / 'x.tar'
    with tarfile.open(path, 'w') as archive:
        info = tarfile.TarInfo('images')
        info.type, info.linkname = kind, '/etc'
        archive.addfile(info)
    assert "'images' is a link, a device" in refused(path)


@pytest.mark.parametrize('mode', [0o120777, 0o020666, 0o060666, 0o010666, 0o140666])
def test_links_and_devices_in_a_zip(tmp_path, mode):
    path = tmp_path / 'x.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        info = zipfile.ZipInfo('images')
        info.external_attr = mode << 16
        archive.writestr(info, '/etc')
    assert "'images' is a link or a device" in refused(path)


def test_a_member_without_a_name(tmp_path):
    path = write_zip(tmp_path / 'x.zip', {'a': b'1'})
    content = bytearray(path.read_bytes())
    entry = content.index(b'PK\1\2')
    content[entry + 28 : entry + 34] = struct.pack('<HHH', 0, 0, 1)  # the name becomes a comment
    path.write_bytes(content)
    assert "'' has an odd path" in refused(path)


def test_encrypted_and_doubled(tmp_path):
    path = write_zip(tmp_path / 'x.zip', {'a': b'1'})
    content = bytearray(path.read_bytes())
    content[content.index(b'PK\1\2') + 8] |= 1
    path.write_bytes(content)
    assert "'a' is encrypted" in refused(path)
    with pytest.warns(UserWarning, match='Duplicate name'), zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('a', b'1')
        archive.writestr('a', b'2')
    assert "'a' is there twice" in refused(path)


@pytest.mark.parametrize('kind', ['zip', 'gz', 'bz2', 'xz'])
def test_bombs(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(module, '_HARMLESS', 2**20)
    path, files = tmp_path / 'x', {'a': bytes(2**20), 'b': bytes(2**20)}
    write_zip(path, files) if kind == 'zip' else write_tar(path, files, kind)
    assert 'would unpack to' in refused(path)
    monkeypatch.setattr(module, '_HARMLESS', 2**21)
    assert len(open_archive(path).members) == 2


def test_a_bomb_whose_members_share_their_bytes(tmp_path):
    """As David Fifield's: the table of contents names the same compressed bytes again and again."""
    content = write_zip(tmp_path / 'one.zip', {'aaaa': bytes(2**20)}).read_bytes()
    start = content.index(b'PK\1\2')
    entry = content[start : content.index(b'PK\5\6')]
    table = b''.join(entry.replace(b'aaaa', b'%04d' % index) for index in range(2000))
    end = struct.pack('<4sHHHHIIH', b'PK\5\6', 0, 0, 2000, 2000, len(table), start, 0)
    path = tmp_path / 'x.zip'
    path.write_bytes(content[:start] + table + end)
    assert 'refused' in refused(path) or 'damaged' in refused(path)


def test_a_tar_that_says_it_is_huge(tmp_path):
    path = tmp_path / 'x.tar'
    for kind in (tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info = tarfile.TarInfo('a')
        info.size, info.type = 2**40, kind
        path.write_bytes(info.tobuf() + bytes(10240))
        assert 'refused' in (message := refused(path)) or 'damaged' in message


def test_sparse_members(tmp_path):
    """A few bytes that unpack to a terabyte."""
    info = tarfile.TarInfo('a')
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b'%011o\0' % 2**32
    header[148:156] = b'        '
    header[148:156] = b'%06o\0 ' % sum(header[:512])
    path = tmp_path / 'x.tar'
    path.write_bytes(bytes(header) + bytes(10240))
    assert 'sparse' in refused(path)


def test_more_members_than_any_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(module, '_MOST_MEMBERS', 10)
    assert 'in 11 files' in refused(write_zip(tmp_path / 'x.zip', {str(index): b'' for index in range(20)}))


# --------------------------------------------------------------------------------------------------------- fuzzing
HOSTILE = (b'../', b'/etc/', b'\\..\\', b'C:/', b'\0', b'..', b'\xff\xfe', b'images/validation/', b'PK\1\2', b'2' * 8)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut, doubled, or overwritten with what is dangerous; more often where the headers are."""
    changed = bytearray(content)
    headers = [at for at in range(0, len(content) - 46) if content[at : at + 2] == b'PK'] or range(0, len(content), 512)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        near = rng.choice(headers) + rng.randrange(120) if rng.random() < 0.7 else rng.randrange(len(content))
        at = min(near, max(len(changed) - 1, 0))
        match rng.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                word = rng.choice(HOSTILE)
                changed[at : at + len(word)] = word
            case 2:
                changed[at : at + 4] = rng.choice((b'\xff' * 4, b'\0' * 4, struct.pack('<I', 2**31)))
            case 3:
                del changed[at : at + rng.choice((1, 8, 512))]
            case 4:
                changed[at:at] = changed[at : at + rng.choice((1, 46, 512))]
            case 5:
                del changed[at + (len(changed) - at) * rng.randrange(3) // 3 :]
    return bytes(changed)


@pytest.mark.parametrize('kind', ['zip', '', 'gz'])
def test_a_thousand_damaged_archives(tmp_path, kind):
    """They are refused with a sentence, or what comes out is right and lies where it should."""
    rng = random.Random(kind)
    files = ade20k(2, 1)
    path, out = tmp_path / 'in' / 'x', tmp_path / 'out'
    path.parent.mkdir()
    write_zip(path, files) if kind == 'zip' else write_tar(path, files, '')
    content = path.read_bytes()
    dataset = with_counts('ade20k', training=2, validation=1)
    ended = {'refused': 0, 'unpacked': 0}
    for index in range(350):
        data = mutated(content, rng)
        if kind == 'gz':
            buffer = io.BytesIO()
            with module.gzip.open(buffer, 'wb', 1) as stream:
                stream.write(data)
            data = mutated(buffer.getvalue(), rng) if index % 4 == 0 else buffer.getvalue()
        path.write_bytes(data)
        root = out / str(index)
        (root / 'staging').mkdir(parents=True)
        try:
            archive = open_archive(path)
            source = recognise(dataset, [member.name for member in archive.members], str(path))
            extract(archive, plan(archive, source, lambda _: True), root / 'staging', root)
            ended['unpacked'] += 1
        except UserError as error:
            assert '\n' not in str(error) and 'make room' not in str(error)  # it is not the disk
            ended['refused'] += 1
        written = [each for each in root.rglob('*') if each.is_file() and each.name != '.writing']
        for each in written:
            assert each.relative_to(root / 'staging').parts[0] in ('images', 'annotations')
            if kind == 'zip':  # which has checksums
                assert each.read_bytes() in files.values()
    assert {each.name for each in tmp_path.iterdir()} == {'in', 'out'}
    assert {each.name for each in out.iterdir()} == {str(index) for index in range(350)}
    assert ended['refused'] > 50 and ended['unpacked'] > 5, ended
