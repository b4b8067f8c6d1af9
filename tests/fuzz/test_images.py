"""Images of strangers: damaged, of other kinds than they say, none at all, and bombs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from densevit.check.data.probe import look_at_header, look_at_image, look_at_label
from densevit.data.loading import why_unreadable
from densevit.data.own.masks import look_at
from densevit.data.own.pairs import Pair
from densevit.errors import UserError
from densevit.inference.images import as_rgb, read_image
from densevit.inference.sources import Frames, find_sources
from tests.fuzz.isolated import assert_sentence, begin, fuzz, isolated, peak_memory, refused
from tests.fuzz.mutants import mutated_file
from tests.fuzz.pictures import bombs, encoded

FILES = encoded()
MOST = 400 * 2**20  # bytes that a bomb may take


def assert_read(path: Path) -> None:
    """All that reads images reads this file or says in words why not."""
    pixels = refused(read_image, path)
    if pixels is not None:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size
    assert isinstance(why_unreadable(str(path)), str)
    for look in (look_at_header, look_at_image, look_at_label):
        facts = look(str(path))
        assert min(facts.size) >= 0 and asdict(facts)
    # what the check calls sound can be loaded in training, which mmcv does with OpenCV
    refused(look_at, [Pair('a', path, path)])


@isolated
def test_damaged_images(tmp_path):
    @fuzz(100, mutated_file(FILES))
    def case(drawn: tuple[str, bytes]) -> None:
        path = tmp_path / drawn[0]
        path.write_bytes(drawn[1])
        assert_read(path)


@isolated
def test_images_under_the_suffix_of_others(tmp_path):
    for name, content in FILES.items():
        for suffix in ('.png', '.jpg', '.tif'):
            path = tmp_path / f'a{suffix}'
            begin(f'{name} as {suffix}')
            path.write_bytes(content)
            assert_read(path)


@isolated
def test_what_is_no_image(tmp_path):
    texts = dict(empty=b'', text=b'no image', page=b'<html>', zeros=bytes(5000), archive=b'PK\x03\x04', code=b'%!PS\n')
    for name, content in texts.items():
        for suffix in ('.png', '.jpg', ''):
            path = tmp_path / (name + suffix)
            path.write_bytes(content)
            begin(str(path))
            with pytest.raises(UserError, match=path.name):
                read_image(path)
            assert why_unreadable(str(path)) and look_at_image(str(path)).error
            assert_read(path)


@isolated
def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / 'fifo.png')
    (tmp_path / 'folder.png').mkdir()
    (tmp_path / 'loop.png').symlink_to(tmp_path / 'loop.png')
    (tmp_path / 'dangling.png').symlink_to(tmp_path / 'nothing')
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(tmp_path / 'socket.png'))
    names = [*sorted(tmp_path.iterdir()), Path('/dev/zero'), tmp_path / ('a' * 5000), tmp_path / 'a\0b.png']
    names += [tmp_path / '\udcff.png', tmp_path / 'fifo.png' / 'a.png']
    for path in names:
        begin(ascii(path))
        with pytest.raises(UserError) as error:
            read_image(path)
        assert_sentence(str(error.value))
        assert why_unreadable(str(path)) and look_at_image(str(path)).error and look_at_label(str(path)).error
        assert_sentence(why_unreadable(str(path)))
        refused(find_sources, [str(path)])
    os.mkfifo(tmp_path / 'fifo.mp4')
    begin('a video')
    with pytest.raises(UserError, match='no such file'):
        Frames(find_sources([str(tmp_path)])[2])


@isolated
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / 'closed.png'
    path.write_bytes(FILES['rgb.png'])
    path.chmod(0)
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path('/'):
            parent.chmod(parent.stat().st_mode | 0o011)
    if not os.getuid():
        os.setuid(65534)  # root may read all
    begin('without permission')
    with pytest.raises(UserError, match='closed.png'):
        read_image(path)
    assert why_unreadable(str(path)) and look_at_image(str(path)).error


@pytest.mark.parametrize(
    'read', [read_image, look_at_header, look_at_image, look_at_label, lambda path: why_unreadable(str(path))],
    ids=['read_image', 'look_at_header', 'look_at_image', 'look_at_label', 'why_unreadable'],
)  # fmt: skip
def test_bombs_are_refused_before_they_go_off(tmp_path, read):
    @isolated
    def measured() -> None:
        for name, content in bombs().items():
            path = tmp_path / name
            path.write_bytes(content)
            begin(name)
            taken = peak_memory(lambda path=path: refused(read, str(path)))
            assert taken < MOST, f'{name}: {taken / 2**20:.0f} MiB'

    measured()


@isolated
def test_a_sparse_file_is_not_read(tmp_path):
    path = tmp_path / 'sparse.png'
    with path.open('wb') as file:
        file.truncate(2**40)
    for read in (read_image, look_at_image, look_at_label):
        begin(read.__name__)
        assert peak_memory(lambda read=read: refused(read, str(path))) < MOST


def odd_arrays() -> st.SearchStrategy:
    side = st.sampled_from([0, 1, 2, 3, 4, 5, 37])
    kinds = ['uint8', 'bool', 'uint16', '>u2', 'int8', 'int64', 'float16', 'float32', 'complex64', 'O', 'S3', 'M8[s]']
    return st.builds(
        lambda shape, kind, order: np.ones(shape, np.uint8).astype(kind, order=order)[..., :: 1 if order == 'C' else -1]
        if shape else np.ones(shape, kind),
        st.lists(side, max_size=4).map(tuple), st.sampled_from(kinds), st.sampled_from('CF'),
    )  # fmt: skip


@isolated
def test_odd_arrays_and_objects():
    modes = '1 L P RGB RGBA CMYK YCbCr LAB HSV I F LA PA RGBX RGBa La I;16'.split()
    images = st.builds(Image.new, st.sampled_from(modes), st.tuples(*[st.sampled_from([0, 1, 3, 37])] * 2))
    others: list[Any] = [None, 3, b'', {}, object(), np.float32(3), '', '\0', '/', os.curdir, Path('/')]

    @fuzz(50, st.one_of(odd_arrays(), images, st.sampled_from(others)))
    def case(given: Any) -> None:
        pixels = refused(as_rgb, given)
        if pixels is not None:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size


def test_the_harness_names_what_a_test_died_of():
    def broken(how: Callable[[], Any]) -> None:
        begin('the first')
        begin('the second')
        how()

    for how, words in ((os.abort, 'SIGABRT.*the second'), (lambda: 1 / 0, 'ZeroDivisionError')):
        with pytest.raises(AssertionError, match=f'(?s){words}'):
            isolated(broken)(how)
    with pytest.raises(AssertionError, match='MemoryError'):
        isolated(broken)(lambda: np.ones(2**33, np.uint8))
