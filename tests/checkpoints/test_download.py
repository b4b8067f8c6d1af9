"""Checkpoints by URL, from a server on this machine that breaks off, changes its files and lies about them."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import random
import re
import threading
import time
from pathlib import Path

import pytest
import torch

from densevit import fetch as module
from densevit.checkpoints import CheckpointError, load_weights, read_state_dict
from densevit.checkpoints.download import cache_folder, local_file
from tests.checkpoints.server import running

CONTENT = random.Random(0).randbytes(300_000)
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache; no proxy, no pauses, no rank."""
    monkeypatch.setenv('DENSEVIT_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(module, '_PAUSES', (0.0, 0.0, 0.0))
    for rank in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(rank, raising=False)
    return tmp_path / 'cache'


@pytest.fixture
def server():
    with running() as server:
        yield server


def whole(cache: Path) -> list[str]:
    """What would be taken for a checkpoint."""
    return sorted(path.name for path in cache.rglob('*') if path.suffix in ('.pth', '.safetensors'))


# ------------------------------------------------------------------------------------------- where it is
def test_fetched_once_and_kept_by_hash(server, cache):
    url, file = server.serve('model.pth', CONTENT)
    path = local_file(url)
    assert path == cache / f'{HASH}.pth' and path.read_bytes() == CONTENT
    assert local_file(url) == path and len(file.requests) == 1
    # freshness: what was fetched once stays, until somebody removes it
    file.content, file.etag = b'another', '"two"'
    assert local_file(f'{url}#readme') == path and len(file.requests) == 1
    path.unlink()
    assert local_file(url).read_bytes() == b'another'


def test_warm_cache_needs_no_server_and_a_cold_one_says_what_is_missing(server, cache):
    url, _ = server.serve('model.safetensors', CONTENT)
    path = local_file(url)
    assert path.suffix == '.safetensors'
    server.stop()
    assert local_file(url) == path
    for each in cache.iterdir():
        if each.is_file():
            each.unlink()
    with pytest.raises(CheckpointError, match='not in the cache') as caught:
        local_file(url)
    assert url in str(caught.value) and '\n' not in str(caught.value)
    # where the message says that one may put it
    place = Path(re.search(r'put the file at (\S+),', str(caught.value))[1])
    assert place.is_relative_to(cache)
    place.write_bytes(CONTENT)
    assert local_file(url) == path and local_file(url) == path
    assert whole(cache) == [path.name]


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv('DENSEVIT_CACHE', '~/here')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert cache_folder() == tmp_path / 'here'
    monkeypatch.delenv('DENSEVIT_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    assert cache_folder() == tmp_path / 'xdg/densevit/checkpoints'
    monkeypatch.delenv('XDG_CACHE_HOME')
    assert cache_folder() == tmp_path / '.cache/densevit/checkpoints'


def test_a_path_is_itself(tmp_path):
    file = tmp_path / 'w.pth'
    file.write_bytes(CONTENT)
    assert local_file(file) == local_file(str(file)) == local_file(file, sha256=HASH.upper()) == file
    with pytest.raises(CheckpointError, match=f'has the sha256 {HASH} instead of 01234567'):
        local_file(file, sha256='01234567')
    assert file.is_file()


# -------------------------------------------------------------------------------------------- connections
@pytest.mark.parametrize('length', ['header', 'chunked'])
def test_a_broken_connection_goes_on_where_it_stopped(server, cache, capsys, length):
    url, file = server.serve('model.pth', CONTENT, breaks=[100_000, 50_000], length=length)
    assert local_file(url).read_bytes() == CONTENT
    ranges = [(request.get('Range'), request.get('If-Range')) for request in file.requests]
    assert ranges == [(None, None), ('bytes=100000-', '"one"'), ('bytes=150000-', '"one"')]
    assert file.sent == len(CONTENT)
    said = capsys.readouterr().err
    assert said.count('trying again') == 2 and '0.1 MB are there' in said and 'model.pth' in said


def test_a_new_process_goes_on_where_the_last_one_stopped(server, cache):
    url, file = server.serve('model.pth', CONTENT, breaks=[50_000] * 4)
    with pytest.raises(CheckpointError, match=r'cannot fetch .* \(the connection broke at 0\.2 of 0\.3 MB\)'):
        local_file(url)
    assert whole(cache) == [] and len(file.requests) == 4
    assert local_file(url).read_bytes() == CONTENT
    assert file.sent == len(CONTENT)


@pytest.mark.parametrize('how', [dict(ranges=False), dict(etag=''), dict(etag='W/"one"')], ids=str)
def test_without_ranges_or_a_version_it_starts_anew(server, how):
    url, file = server.serve('model.pth', CONTENT, breaks=[100_000], **how)
    assert local_file(url).read_bytes() == CONTENT
    assert file.sent == len(CONTENT) + 100_000
    if 'etag' in how:
        assert 'Range' not in file.requests[1]


@pytest.mark.parametrize('checks', [True, False], ids=['If-Range kept', 'If-Range ignored'])
def test_another_version_is_not_mixed_in(server, cache, checks):
    url, file = server.serve('model.pth', CONTENT, breaks=[100_000] * 4, ranges=False, checks_etag=checks)
    with pytest.raises(CheckpointError):
        local_file(url)
    file.content, file.etag, file.ranges = CONTENT[::-1], '"two"', True
    assert local_file(url).read_bytes() == CONTENT[::-1]
    assert file.requests[4]['If-Range'] == '"one"'


def test_a_part_longer_than_the_file_is_dropped(server):
    url, file = server.serve('model.pth', CONTENT, breaks=[100_000] * 4, ranges=False)
    with pytest.raises(CheckpointError):
        local_file(url)
    file.content, file.ranges = CONTENT[:100_000], True
    assert local_file(url).read_bytes() == CONTENT[:100_000]


@pytest.mark.parametrize('status', [404, 403, 410])
def test_a_refusal_is_not_asked_again(server, cache, status):
    url, file = server.serve('model.pth', CONTENT, answers=[status])
    with pytest.raises(CheckpointError, match=f'the server answers {status} .*; check address'):
        local_file(url)
    assert len(file.requests) == 1 and whole(cache) == []


def test_a_busy_server_is_asked_again(server):
    url, file = server.serve('model.pth', CONTENT, answers=[503, 429, 500])
    assert local_file(url).read_bytes() == CONTENT
    assert len(file.requests) == 4


def test_a_web_page_is_not_a_file(server, cache):
    url, file = server.serve('model.pth', b'<html>confirm</html>', kind='text/html; charset=utf-8')
    with pytest.raises(CheckpointError, match='is a web page'):
        local_file(url)
    assert len(file.requests) == 1 and whole(cache) == []


def test_without_a_length_the_hash_must_be_known(server, cache):
    url, file = server.serve('model.pth', CONTENT, length='')
    with pytest.raises(CheckpointError, match='without its length.*sha256='):
        local_file(url)
    file.breaks = [100_000]
    with pytest.raises(CheckpointError, match='instead of'):
        local_file(url, sha256=HASH)
    assert whole(cache) == []
    assert local_file(url, sha256=HASH).read_bytes() == CONTENT


# -------------------------------------------------------------------------------------------------- hashes
@pytest.mark.parametrize('digits', [8, 10, 64])
@pytest.mark.parametrize('given', ['name', 'argument'])
def test_the_right_hash(server, digits, given):
    name = f'swin_t-{HASH[:digits]}.pth' if given == 'name' else 'model.pth'
    url, _ = server.serve(name, CONTENT)
    local_file(url, **({} if given == 'name' else {'sha256': HASH[:digits]}))


@pytest.mark.parametrize('given', ['name', 'argument', 'put by hand'])
def test_the_wrong_hash_is_refused_and_the_file_removed(server, cache, given):
    url, file = server.serve('model-0123abcd.pth' if given == 'name' else 'model.pth', CONTENT)
    sha256 = None if given == 'name' else '0123abcd'
    if given == 'put by hand':
        place = cache / 'urls' / f'{hashlib.sha256(url.encode()).hexdigest()[:16]}.pth'
        place.parent.mkdir(parents=True)
        place.write_bytes(CONTENT)
    for tries in (1, 2):
        with pytest.raises(CheckpointError, match=f'has the sha256 {HASH} instead of 0123abcd and was removed'):
            local_file(url, sha256=sha256)
        assert [path for path in cache.rglob('*') if path.is_file() and path.stat().st_size > 100] == []
        assert len(file.requests) == tries - (given == 'put by hand')


@pytest.mark.parametrize('name', ['m-20220317.pth', 'm-0123abc.pth', 'm_0123abcd.pth', 'm-notahash.pth'])
def test_names_without_a_hash(server, name):
    local_file(server.serve(name, CONTENT)[0])


def test_an_argument_wins_over_the_name(server):
    url, _ = server.serve('model-0123abcd.pth', CONTENT)
    local_file(url, sha256=HASH[:12])
    with pytest.raises(CheckpointError, match='instead of 0123abcd'):  # also of what is there already
        local_file(url)


@pytest.mark.parametrize('sha256', ['', '0123abc', 'x' * 64, HASH + '0'])
def test_what_is_no_hash(tmp_path, sha256):
    for source in ('http://127.0.0.1:9/model.pth', tmp_path):
        with pytest.raises(CheckpointError, match=f"sha256='{sha256}': give"):
            local_file(source, sha256=sha256)


def test_one_content_at_two_addresses(server, cache):
    url, _ = server.serve('model.pth', CONTENT)
    mirror, file = server.serve('mirror/other.pth', CONTENT)
    path = local_file(url)
    assert local_file(mirror, sha256=HASH) == path and file.requests == []
    assert local_file(mirror) == path and whole(cache) == [path.name]


# ----------------------------------------------------------------------------------- disks and processes
def test_a_full_disk(server, cache):
    url, file = server.serve('model.pth', CONTENT)
    part = cache / 'urls' / f'{hashlib.sha256(url.encode()).hexdigest()[:16]}.part'
    part.parent.mkdir(parents=True)
    part.symlink_to('/dev/full')
    with pytest.raises(CheckpointError, match='No space left.*DENSEVIT_CACHE'):
        local_file(url)
    assert whole(cache) == [] and len(file.requests) == 1
    part.unlink()
    assert local_file(url).read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written(server, cache, monkeypatch):
    url, file = server.serve('model.pth', CONTENT)
    cache.write_text('a file')
    with pytest.raises(CheckpointError, match='cannot be kept in .*DENSEVIT_CACHE'):
        local_file(url)
    assert file.requests == []


@pytest.mark.parametrize('rank, shown', [(None, True), ('0', True), ('1', False)])
def test_only_the_first_process_shows_a_bar(server, monkeypatch, capsys, rank, shown):
    if rank:
        monkeypatch.setenv('RANK', rank)
    url, _ = server.serve('model.pth', CONTENT, breaks=[10])
    local_file(url)
    said = capsys.readouterr()
    assert said.out == '' and ('model.pth' in said.err) == ('trying again' in said.err) == shown
    assert shown or said.err == ''


def _fetch(url: str, found) -> None:
    found.put(local_file(url))


def test_of_two_processes_one_fetches(server, cache):
    """The second waits at the lock, shows how far the first is, and finds the file there."""
    gate = threading.Event()
    url, file = server.serve('model.pth', CONTENT, gate=gate)
    context = multiprocessing.get_context('fork')
    found = context.SimpleQueue()
    started = [context.Process(target=_fetch, args=(url, found)) for _ in range(2)]
    for process in started:
        process.start()
    while not file.requests:
        assert all(process.is_alive() for process in started)
        time.sleep(0.05)
    time.sleep(1)  # for the other to come to the lock
    gate.set()
    for process in started:
        process.join(120)
        assert process.exitcode == 0
    assert [found.get() for _ in started] == [cache / f'{HASH}.pth'] * 2
    assert len(file.requests) == 1


def test_waiting_for_another_shows_how_far_it_is(server, cache, monkeypatch):
    gate = threading.Event()
    url, file = server.serve('model.pth', CONTENT, gate=gate)
    seen = []
    original = module.Progress.update

    def update(self, task, **options):
        seen.append((threading.current_thread().name, options.get('completed')))
        return original(self, task, **options)

    monkeypatch.setattr(module.Progress, 'update', update)
    first = threading.Thread(target=local_file, args=(url,), name='first')
    first.start()
    while file.sent < len(CONTENT) // 2:
        time.sleep(0.01)
    second = threading.Thread(target=local_file, args=(url,), name='second')
    second.start()
    while ('second', len(CONTENT) // 2) not in seen:
        assert second.is_alive()
        time.sleep(0.01)
    gate.set()
    for thread in (first, second):
        thread.join(30)
    assert len(file.requests) == 1 and local_file(url).is_file()


# ------------------------------------------------------------------------------------------- and it loads
def saved(state: dict) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def test_weights_load_from_a_url(server):
    source, model = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    content = saved(source.state_dict())
    url, _ = server.serve('w.pth', content)
    report = load_weights(model, url, sha256=hashlib.sha256(content).hexdigest())
    assert len(report.loaded) == 2 and torch.equal(model.weight, source.weight)
    with pytest.raises(CheckpointError, match='instead of 01234567'):
        load_weights(model, url, sha256='01234567')


def test_what_is_no_checkpoint_is_named_with_its_place(server, cache):
    url, _ = server.serve('w.pth', saved({'a': torch.zeros(100)})[:200])
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(url)
    assert url in str(caught.value) and str(cache / whole(cache)[0]) in str(caught.value)


def test_a_file_of_the_cache_that_has_changed_is_fetched_again(server, cache):
    url, file = server.serve('model.pth', CONTENT)
    path = local_file(url, sha256=HASH)
    path.write_bytes(b'0' + CONTENT[1:])
    assert local_file(url, sha256=HASH).read_bytes() == CONTENT and len(file.requests) == 2
