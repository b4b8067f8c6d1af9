"""What the tests of its users, of checkpoints and of data sets, do not show."""

from __future__ import annotations

import hashlib

import pytest

from densevit import fetch
from densevit.errors import UserError
from densevit.fetch import Advice, Download, byte_progress, digest_of
from tests.checkpoints.server import running

ADVICE = Advice(failed='; FAILED.', elsewhere='ELSEWHERE', length='LENGTH')


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(fetch, '_PAUSES', (0.0, 0.0, 0.0))


def get(url: str, place, **options):
    with byte_progress('x') as progress:
        return Download(url, place, ADVICE, **options).fetch(progress)


def test_what_comes_and_what_it_leaves(tmp_path):
    with running() as server:
        url, _ = server.serve('x', b'content', breaks=[3])
        part = get(url, tmp_path / 'x.zip')
    assert part == tmp_path / 'x.zip.part' and part.read_bytes() == b'content'
    assert digest_of(part, 'sha1') == hashlib.sha1(b'content').hexdigest()


def test_the_advice_of_the_caller(tmp_path):
    class MineError(UserError):
        pass

    with running() as server:
        url, file = server.serve('x', b'content', length='')
        with pytest.raises(MineError, match='without its length.*; LENGTH.'):
            get(url, tmp_path / 'x', error=MineError)
        assert get(url, tmp_path / 'x', needs_length=False).read_bytes() == b'content'
        with pytest.raises(MineError, match=r'answers 404 .*\); FAILED.'):
            get(url + 'y', tmp_path / 'y', error=MineError)


def test_room(tmp_path, monkeypatch):
    usage = fetch.shutil.disk_usage(tmp_path)
    with running() as server:
        url, file = server.serve('x', b'1' * 1000, breaks=[600, 0, 0, 0])
        with pytest.raises(UserError, match='connection broke'):
            get(url, tmp_path / 'x')
        monkeypatch.setattr(fetch.shutil, 'disk_usage', lambda path: usage._replace(free=399))
        with pytest.raises(UserError, match='left, but .* needs 0.0 GB more; make room there, or ELSEWHERE'):
            get(url, tmp_path / 'x')
        monkeypatch.setattr(fetch.shutil, 'disk_usage', lambda path: usage._replace(free=400))
        assert get(url, tmp_path / 'x').stat().st_size == 1000
        # what is fetched anew takes the place of what was there
        file.etag = '"two"'
        assert get(url, tmp_path / 'x').stat().st_size == 1000
