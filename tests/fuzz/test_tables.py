"""Tables of classes, lists of names and archives of strangers."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from densevit.data.own.classes import read_classes
from densevit.data.own.pairs import split_names
from densevit.data.prepare.archives import open_archive
from densevit.errors import UserError
from tests.fuzz.isolated import begin, fuzz, isolated, peak_memory, refused
from tests.fuzz.mutants import ODD, mutated_bytes, mutated_tree
from tests.fuzz.pictures import zeros

LINES = [
    b'road', b'7 road', b'road 128 64 128', b'1 2 3 road', b'road:128,64,128::', b'id,name,color', b'7,road,#804080',
    b'name,r,g,b', b'sky,1,2,3', b'# a comment', b'', b'\xef\xbb\xbftree', b'"a,b",3', b'a;b;c', b'\xff',
]  # fmt: skip


@isolated
def test_tables_of_classes(tmp_path):
    @fuzz(60, st.lists(st.sampled_from(LINES), max_size=5).map(b'\n'.join).flatmap(
        lambda text: st.one_of(st.just(text), mutated_bytes(text))))  # fmt: skip
    def lines(content: bytes) -> None:
        for name in ('classes.txt', 'classes.json'):
            path = tmp_path / name
            path.write_bytes(content)
            refused(read_classes, [str(path)])

    tree, sky = {'name': 'tree', 'id': 3, 'color': [1, 2, 3]}, {'name': 'sky', 'color': '#010203'}
    content: Any = {'classes': ['road', tree, sky]}

    @fuzz(60, mutated_tree(content))
    def trees(content: Any) -> None:
        path = tmp_path / 'classes.json'
        path.write_text(json.dumps(content))
        refused(read_classes, [str(path)])


@isolated
def test_tables_that_are_none(tmp_path):
    path = tmp_path / 'classes.txt'
    long = ['a ' * 30_000, '1 ' * 30_000, ' ' * 60_000 + 'a', 'a' + ' ' * 60_000 + 'b', 'a,' * 30_000, 'a:' * 30_000]
    for text in [*long, '\n'.join(map(str, range(200_000))), '[' * 200_000, '"' * 10, '1' * 5000]:
        begin(text[:20])
        for name in ('classes.txt', 'classes.json'):
            (tmp_path / name).write_text(text)
            refused(read_classes, [str(tmp_path / name)])
    with path.open('wb') as file:
        file.truncate(2**40)
    begin('sparse')
    with pytest.raises(UserError, match='larger'):
        read_classes([str(path)])
    path.unlink()
    os.mkfifo(path)
    begin('a pipe')
    with pytest.raises(UserError, match='no file'):
        read_classes([str(path)])
    for given in (each for each in ODD if isinstance(each, str)):
        begin(ascii(given[:99]))
        refused(read_classes, [given])
        refused(split_names, ['a', 'b', 'c'], given, 0)


@isolated
def test_lists_of_names(tmp_path):
    @fuzz(20, mutated_bytes(b'a\nb.png\nfolder/c\n'))
    def case(content: bytes) -> None:
        path = tmp_path / 'val.txt'
        path.write_bytes(content)
        refused(split_names, ['a', 'b', 'c'], str(path), 0)


def zipped(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, b'content' * 9)
    return buffer.getvalue()


def tarred(names: list[str], mode: str = 'w') -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 63
            file.addfile(info, io.BytesIO(b'content' * 9))
    return buffer.getvalue()


def unpacked(path: Path) -> None:
    """All of an archive is read, and nothing of it has a name that leaves a folder."""
    archive = open_archive(path)
    names = {member.name for member in archive.members}
    for member, file in archive.contents(names):
        assert not member.name.startswith('/') and '..' not in member.name.split('/')
        with archive.reading():
            assert len(file.read(2**20)) <= 2**20


@isolated
def test_archives(tmp_path):
    path = tmp_path / 'archive'
    names = ['images/a.jpg', 'images/b.jpg', 'labels/a.png']
    sound = [zipped(names), tarred(names), tarred(names, 'w:gz'), tarred(names, 'w:bz2'), tarred(names, 'w:xz')]

    @fuzz(60, st.sampled_from(sound).flatmap(mutated_bytes))
    def damaged(content: bytes) -> None:
        path.write_bytes(content)
        refused(unpacked, path)

    odd = ['../a', '/a', 'a/../../b', 'C:\\a', 'a\\..\\b', './a', 'a//b', 'a/', '.', '..', 'ä', 'con', 'a\nb', '~/a']
    odd.append('a' * 3000)

    @fuzz(30, st.tuples(st.sampled_from([zipped, tarred]), st.lists(st.one_of(st.sampled_from(odd), st.text(
        st.characters(exclude_categories=['Cs']), min_size=1, max_size=9)), max_size=4)))  # fmt: skip
    def named(drawn: Any) -> None:
        make, which = drawn
        path.write_bytes(make(which))
        refused(unpacked, path)


@isolated
def test_archives_that_swell(tmp_path):
    path = tmp_path / 'archive'
    for content in (zeros(2**30), b'\x1f\x8b\x08\0\0\0\0\0\0\xff' + zeros(2**30)[2:-4]):
        path.write_bytes(content)
        begin('a stream of zeros')
        assert peak_memory(lambda: refused(unpacked, path)) < 200 * 2**20
