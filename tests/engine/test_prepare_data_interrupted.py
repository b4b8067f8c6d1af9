"""Data sets from a server on this machine, and runs that are killed and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from densevit import fetch
from densevit.data.prepare.datasets import DATASETS
from densevit.engine import prepare_data as module
from densevit.errors import UserError
from tests.data.prepare import archive_files as files
from tests.data.prepare.archive_files import write_tar, write_zip
from tests.data.prepare.runs import data, expected, run
from tests.fresh import ROOT

pytestmark = pytest.mark.usefixtures('small_sets')


# ---------------------------------------------------------------------------------------------------- downloads
def serve_coco(server, **how) -> str:
    content = {
        'train2017.zip': files.coco_images('train2017', 4),
        'val2017.zip': files.coco_images('val2017', 2),
        'annotations_trainval2017.zip': files.coco_annotations(4, 2),
    }
    served = {}
    for name, members in content.items():
        path = write_zip(Path(name), members)
        url, served[name] = server.serve(f'coco/{name}', path.read_bytes(), **how)
        path.unlink()
    return url.rpartition('/')[0], served


@pytest.mark.parametrize('how', [
    {}, {'ranges': False}, {'etag': ''}, {'length': 'chunked'}, {'length': ''}, {'breaks': [100, 200]},
    {'breaks': [100, 200], 'ranges': False}, {'answers': [503, 429]}, {'checks_etag': False, 'breaks': [300]},
], ids=str)  # fmt: skip
def test_download(server, tmp_path, capsys, how):
    url, served = serve_coco(
        server, **{key: list(value) if isinstance(value, list) else value for key, value in how.items()}
    )
    assert run('coco', download=True, url=url) == 0
    root = tmp_path / 'data' / 'coco'
    assert len(data(root)) == 4 + 2 + 2
    assert sorted(path.name for path in (root / 'downloads').iterdir()) == sorted(served)
    said = capsys.readouterr().out
    assert f'{root}/downloads (0.0 GB) is not needed any more' in said
    record = json.loads((root / 'prepared.json').read_text())['archives']
    assert [each['url'] for each in record] == [f'{url}/{name}' for name in served]
    requests = sum(len(file.requests) for file in served.values())
    assert run('coco', download=True, url=url) == 0
    assert sum(len(file.requests) for file in served.values()) == requests


def test_only_what_is_missing_is_downloaded(server, tmp_path):
    url, served = serve_coco(server)
    assert run('coco', write_zip(tmp_path / 'x.zip', files.coco_images('train2017', 4)), download=True, url=url) == 0
    assert [len(served[name].requests) for name in served] == [0, 1, 1]


def test_a_download_is_resumed_by_the_next_run(server, tmp_path):
    url, served = serve_coco(server)
    file = served['train2017.zip']
    file.breaks = [500, 10, 10, 10]
    with pytest.raises(UserError, match='the connection broke .*run the same command again to go on.*--archive'):
        run('coco', download=True, url=url)
    assert (tmp_path / 'data/coco/downloads/train2017.zip.part').stat().st_size == 530
    assert run('coco', download=True, url=url) == 0
    assert file.requests[-1]['Range'] == 'bytes=530-'
    assert file.sent == len(file.content)


def test_the_file_has_changed_between_two_runs(server, tmp_path):
    url, served = serve_coco(server)
    file = served['train2017.zip']
    file.breaks = [500, 10, 10, 10]
    with pytest.raises(UserError, match='connection broke'):
        run('coco', download=True, url=url)
    file.etag = '"two"'
    assert run('coco', download=True, url=url) == 0


def test_the_official_address_and_mirrors():
    dataset = DATASETS['coco']
    official = module._addresses(dataset, dataset.remotes, [])
    assert official['val2017.zip'] == 'http://images.cocodataset.org/zips/val2017.zip'
    mirrored = module._addresses(dataset, dataset.remotes, ['https://a/coco/', 'https://b/x/val2017.zip?key=1'])
    assert mirrored['train2017.zip'] == 'https://a/coco/train2017.zip'
    assert mirrored['val2017.zip'] == 'https://b/x/val2017.zip?key=1'
    dataset = DATASETS['camvid']
    assert set(module._addresses(dataset, dataset.remotes, ['https://a/my.tgz']).values()) == {'https://a/my.tgz'}
    with pytest.raises(UserError, match='is no address of the web.*--archive'):
        module._addresses(dataset, dataset.remotes, ['/home/me/x.zip'])
    with pytest.raises(UserError, match='add --download'):
        run('coco', url='https://a/')


def test_what_is_downloaded_is_wrong(server, tmp_path):
    content = write_zip(tmp_path / 'x.zip', {'images/ADE/training/x.jpg': b''}).read_bytes()
    cases = {
        'gone.zip': (None, 'answers 404'),
        'html.zip': (b'<html>Sign in</html>', 'what came from .* was removed: .*web page'),
        'cut.zip': (content[:50], 'what came from .* was removed: .*cut off'),
        'none.zip': (b'', 'is a web page or empty'),
        'full.zip': (content, 'full ADE20K'),
    }
    for name, (body, words) in cases.items():
        url = f'{server.serve("x", b"")[0]}/{name}'
        if body is not None:
            url, _ = server.serve(name, body)
        with pytest.raises(UserError, match=words):
            run('ade20k', download=True, url=url)
    url, _ = server.serve('typed.zip', b'<html>', kind='text/html')
    downloads = tmp_path / 'data/ade/ADEChallengeData2016/downloads'
    for path in downloads.iterdir():
        path.unlink()
    with pytest.raises(UserError, match='is a web page'):
        run('ade20k', download=True, url=url)


@pytest.mark.parametrize('algorithm', ['sha1', 'sha256'])
def test_published_hashes(server, tmp_path, monkeypatch, capsys, algorithm):
    path = write_zip(tmp_path / 'x.zip', files.ade20k())
    right = fetch.digest_of(path, algorithm)
    url, _ = server.serve('x.zip', path.read_bytes())
    for digest in ('0' * len(right), right):
        remote = replace(DATASETS['ade20k'].remotes[0], digest=f'{algorithm}:{digest}')
        monkeypatch.setitem(DATASETS, 'ade20k', replace(DATASETS['ade20k'], remotes=(remote,)))
        if digest == right:
            assert run('ade20k', download=True, url=url) == 0
        else:
            with pytest.raises(UserError, match=f'has the {algorithm} {right} instead of 000.* was removed'):
                run('ade20k', download=True, url=url)
            assert not list((tmp_path / 'data').rglob('*.part'))
    assert 'the published ADEChallengeData2016.zip' in capsys.readouterr().out


def test_an_archive_that_was_packed_anew(tmp_path, monkeypatch, capsys):
    remote = replace(DATASETS['ade20k'].remotes[0], digest='sha1:' + '0' * 40)
    monkeypatch.setitem(DATASETS, 'ade20k', replace(DATASETS['ade20k'], remotes=(remote,)))
    assert run('ade20k', write_zip(tmp_path / 'ADEChallengeData2016.zip', files.ade20k())) == 0
    assert 'not the published file of this name, whose sha1 is 000' in capsys.readouterr().out


def test_no_room_for_a_download(server, tmp_path, monkeypatch):
    url, served = serve_coco(server)
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda path: usage._replace(free=100))
    with pytest.raises(UserError, match='archives and unpacked data take about'):
        run('coco', download=True, url=url)
    remotes = tuple(replace(remote, size=0) for remote in DATASETS['coco'].remotes)
    monkeypatch.setitem(DATASETS, 'coco', replace(DATASETS['coco'], remotes=remotes))
    with pytest.raises(UserError, match=f"GB left, but '{url}/train2017.zip' needs .* more"):
        run('coco', download=True, url=url)
    assert served['train2017.zip'].sent < len(served['train2017.zip'].content) + 1


# ---------------------------------------------------------------------------------------------------------- killed
CODE = """
import sys, time
from argparse import Namespace
from densevit import fetch
from densevit.data.prepare import datasets, extract
from densevit.engine import prepare_data
from tests.data.prepare.archive_files import with_counts

archive, url, root, slow = sys.argv[1:]
datasets.DATASETS['ade20k'] = with_counts('ade20k', training=60, validation=20)
write = extract._write
def slowly(*arguments):
    write(*arguments)
    time.sleep(float(slow))
extract._write = slowly
args = Namespace(dataset='ade20k', archive=[archive] if archive else None, download=bool(url), url=[url], to=root)
args.url = args.url if url else None
print('ready', flush=True)
raise SystemExit(prepare_data.prepare_data(args))
"""


def start(archive: object, url: str, root: Path, slow: float) -> subprocess.Popen:
    command = [sys.executable, '-W', 'ignore', '-c', CODE, str(archive), url, str(root), str(slow)]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'ready\n'
    return process


@pytest.mark.parametrize('write', [write_zip, write_tar])
def test_killed_while_unpacking(tmp_path, write):
    """Again and again, wherever it happens to be; what is in place is right at every moment."""
    archive = write(tmp_path / 'x', files.ade20k(60, 20))
    root, right = tmp_path / 'set', expected(files.ade20k(60, 20))
    staged = []
    for count in (10, 90):
        process = start(archive, '', root, 0.02)
        while len(list((root / '.preparing').rglob('ADE*'))) < count:
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert data(root).items() <= right.items()
        staged.append(len(list((root / '.preparing').rglob('ADE*'))))
    assert staged == sorted(staged) and staged[-1] < len(right)
    process = start(archive, '', root, 0)
    said, _ = process.communicate()
    assert process.returncode == 0 and f'{staged[-1]} were there from an earlier run' in said
    assert data(root) == right and not (root / '.preparing').exists()


def test_killed_while_downloading(tmp_path, server):
    content = write_zip(tmp_path / 'x', files.ade20k(60, 20)).read_bytes()
    url, file = server.serve('x.zip', content, gate=threading.Event())
    root = tmp_path / 'set'
    process = start('', url, root, 0)
    part = root / 'downloads' / 'ADEChallengeData2016.zip.part'
    while not part.exists() or part.stat().st_size < len(content) // 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    file.gate.set()
    process = start('', url, root, 0)
    process.communicate()
    assert process.returncode == 0
    assert file.requests[-1]['Range'] == f'bytes={len(content) // 2}-'
    assert data(root) == expected(files.ade20k(60, 20))
