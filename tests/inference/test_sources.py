"""Inputs: folders, patterns, lists, names of results, frames."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from densevit.errors import UserError
from densevit.inference.sources import Frames, Source, find_sources


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    for name in ('b.jpg', 'a.PNG', 'a.jpg', 'sub/a.jpg', 'sub/deep/c.tiff', '.hidden.jpg', '.cache/d.png', 'notes.txt',
                 'clip.mp4', 'labels.json'):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
    return folder


def names(sources):
    return [source.name for source in sources]


def test_a_folder_with_all_below_it(photos):
    sources = find_sources([str(photos)])
    assert [source.file_name for source in sources] == [
        'a.PNG', 'a.jpg', 'b.jpg', 'clip.mp4', 'sub/a.jpg', 'sub/deep/c.tiff',
    ]  # fmt: skip
    assert names(sources) == ['a_PNG', 'a_jpg', 'b', 'clip', 'sub/a', 'sub/deep/c']
    assert [source.kind for source in sources if source.kind != 'image'] == ['video']


def test_each_file_once_in_the_order_given(photos):
    given = [str(photos / 'b.jpg'), str(photos / 'sub'), str(photos / 'sub' / '..' / 'b.jpg'), str(photos / '*.jpg')]
    sources = find_sources(given)
    assert [source.path.removeprefix(f'{photos}/') for source in sources] == [
        'b.jpg',
        'sub/a.jpg',
        'sub/deep/c.tiff',
        'a.jpg',
    ]
    assert names(sources) == ['b', 'a', 'deep/c', 'a_2']


def test_files_of_one_name_have_results_of_their_own(photos):
    other = photos.parent / 'other'
    other.mkdir()
    for name in ('a.jpg', 'A.jpg', 'a_jpg.png', 'a_jpg_2.png'):
        (other / name).write_bytes(b'')
    sources = find_sources([str(photos), str(other)])
    assert len({name.casefold() for name in names(sources)}) == len(sources) == 10
    assert len({source.file_name for source in sources}) == len(sources)


def test_names_that_differ_by_case_only_stay_below_their_folder(tmp_path):
    for name in ('sub/a.jpg', 'sub/A.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    if len(list((tmp_path / 'sub').iterdir())) < 2:
        pytest.skip('on this disk they are one file')
    sources = find_sources([str(tmp_path)])
    assert [source.file_name for source in sources] == ['sub/A.jpg', 'sub/a.jpg']
    assert len({name.casefold() for name in names(sources)}) == 2


def test_patterns(photos):
    assert names(find_sources([f'{photos}/**/*.jpg'])) == ['a', 'b', 'sub/a']
    assert names(find_sources([f'{photos}/s*'])) == ['sub/a', 'sub/deep/c']
    with pytest.raises(UserError, match='no image and no video in this pattern'):
        find_sources([f'{photos}/*.webp'])


def test_a_name_that_looks_like_a_pattern(photos):
    (photos / 'x[1].jpg').write_bytes(b'')
    assert names(find_sources([str(photos / 'x[1].jpg')])) == ['x[1]']


def test_lists(photos):
    (photos / 'notes.txt').write_text(f'# what I like\nsub/a.jpg\n\n {photos}/b.jpg \n../photos/a.jpg\n')
    assert names(find_sources([str(photos / 'notes.txt')])) == ['sub/a', 'b', 'a']
    (photos / 'notes.txt').write_text('b.jpg\nnot_there.jpg\n')
    with pytest.raises(UserError, match="notes.txt': it lists 'not_there.jpg', and there is no such file"):
        find_sources([str(photos / 'notes.txt')])
    (photos / 'notes.txt').write_text('# nothing\n')
    with pytest.raises(UserError, match='no image and no video in this list'):
        find_sources([str(photos / 'notes.txt')])


def test_encodings_of_lists(photos):
    (photos / 'notes.txt').write_text('b.jpg\nsub/a.jpg\n', encoding='utf-8-sig')  # as Windows' editor writes it
    assert names(find_sources([str(photos / 'notes.txt')])) == ['b', 'sub/a']
    (photos / 'notes.txt').write_text('gebäude.jpg\n', encoding='latin-1')
    with pytest.raises(UserError, match="notes.txt': the list cannot be read as UTF-8 text"):
        find_sources([str(photos / 'notes.txt')])


def test_what_is_not_there(photos):
    with pytest.raises(UserError, match='nowhere.jpg.*no such file or folder'):
        find_sources([str(photos / 'b.jpg'), 'nowhere.jpg'])
    (photos / 'empty').mkdir()
    with pytest.raises(UserError, match='no image and no video in this folder'):
        find_sources([str(photos / 'empty')])


def test_all_that_is_not_there_is_said_at_once(photos):
    (photos / 'notes.txt').write_text('x.jpg\nb.jpg\ny.jpg\n')
    with pytest.raises(UserError) as caught:
        find_sources(['no.jpg', str(photos / 'b.jpg'), str(photos / 'notes.txt'), 'none.png', 'no.jpg'])
    said = str(caught.value)
    assert said.startswith("input 'no.jpg', 'none.png': there is no such file or folder; ")
    assert "notes.txt': it lists 'x.jpg', 'y.jpg', and there is no such file" in said
    assert 'b.jpg' not in said and said.count('\n') == 0


def test_webcam():
    (source,) = find_sources(['webcam:0'])
    assert source == Source('webcam:0', 'webcam_0', 'webcam_0', 'webcam')


def test_frames_are_rgb(tmp_path):
    path = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 12, (64, 48))
    for index in range(5):
        writer.write(np.full((48, 64, 3), (255, 0, index * 10), np.uint8))  # blue
    writer.release()
    frames = Frames(find_sources([str(path)])[0])
    assert (frames.fps, frames.count) == (12, 5)
    found = list(frames)
    frames.close()
    assert [frame.shape for frame in found] == [(48, 64, 3)] * 5
    assert found[0][..., 2].min() > 200 and found[0][..., 0].max() < 50


def test_what_is_no_video(tmp_path):
    (tmp_path / 'clip.mp4').write_bytes(b'no video')
    with pytest.raises(UserError, match=r'clip.mp4.*no video that OpenCV can decode'):
        Frames(find_sources([str(tmp_path)])[0])
    with pytest.raises(UserError, match=r'webcam:97.*no such camera'):
        Frames(find_sources(['webcam:97'])[0])
