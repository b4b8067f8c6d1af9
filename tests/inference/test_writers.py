"""Results on the disk."""

from __future__ import annotations

import io
import json

import cv2
import numpy as np
import pytest
from faster_coco_eval import COCO
from mmdet.datasets import CocoDataset
from PIL import Image

from densevit.inference.prediction import Detection, Segmentation, encode_masks
from densevit.inference.sources import Frames, Source, find_sources
from densevit.inference.writers import Writer, category_ids, label_png

CLASSES, PALETTE = ('road', 'tree', 'gebäude'), ((1, 2, 3), (40, 50, 60), (250, 0, 90))
H, W = 21, 33


def image(value=100):
    return np.full((H, W, 3), value, np.uint8)


def segmentation(size=(H, W)):
    labels = np.zeros(size, np.uint8)
    labels[: size[0] // 3] = 2
    return Segmentation(np.full((*size, 3), 100, np.uint8), None, CLASSES, PALETTE, labels)


def detection():
    import torch

    masks = torch.zeros(2, H, W, dtype=torch.bool)
    masks[0, 3:9, 5:30] = masks[1, :, 0] = True
    boxes = np.array([[5, 3, 30, 9], [0.25, 0, 1.123456, 21]], np.float32)
    objects = boxes, np.array([0.9, 0.4], np.float32), np.array([2, 0])
    return Detection(image(), None, CLASSES, PALETTE, *objects, encode_masks(masks))


def source(name='sub/a', file_name='sub/a.jpg', path='/x/sub/a.jpg'):
    return Source(path, file_name, name)


@pytest.mark.parametrize('dataset_ids', [False, True])
def test_label_maps_hold_classes_and_show_colours(dataset_ids):
    labels = np.arange(H * W).reshape(H, W) % 3
    picture = Image.open(io.BytesIO(label_png(labels.astype(np.uint8), PALETTE, dataset_ids=dataset_ids)))
    assert picture.mode == 'P'
    np.testing.assert_array_equal(np.asarray(picture), labels + dataset_ids)
    np.testing.assert_array_equal(np.asarray(picture.convert('RGB')), np.array(PALETTE)[labels])


def test_more_classes_than_a_palette_has():
    labels = np.arange(300, dtype=np.uint16)[None].repeat(5, 0)
    picture = Image.open(io.BytesIO(label_png(labels, [(0, 0, 0)] * 300)))
    np.testing.assert_array_equal(np.asarray(picture), labels)
    most = Image.open(io.BytesIO(label_png(labels[:, :256].astype(np.uint8), [(7, 0, 0)] * 256, dataset_ids=True)))
    assert np.asarray(most).max() == 256


@pytest.mark.parametrize('suffix', ['jpg', 'png', None])
def test_images(tmp_path, suffix):
    writer = Writer(tmp_path, CLASSES, PALETTE, overlays=suffix, coco=False)
    writer.image(source(), segmentation())
    writer.close()
    expected = {'classes.json', 'labels/sub/a.png'} | ({f'overlays/sub/a.{suffix}'} if suffix else set())
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*') if path.is_file()} == expected
    if suffix == 'png':
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'overlays/sub/a.png')), segmentation().overlay())


def test_detections_are_cocos(tmp_path):
    writer = Writer(tmp_path, CLASSES, PALETTE, ids={'/x/sub/a.jpg': 139})
    writer.image(source(), detection())
    writer.image(source('b', 'b.jpg', '/x/b.jpg'), detection())
    assert not (tmp_path / 'predictions.json').exists()  # it is not complete
    writer.close()
    content = json.loads((tmp_path / 'predictions.json').read_text(encoding='utf-8'))
    assert [each['name'] for each in content['categories']] == list(CLASSES)
    assert content['images'][0] == dict(id=139, file_name='sub/a.jpg', width=W, height=H)
    coco = COCO(tmp_path / 'predictions.json')
    first, second = coco.loadAnns(coco.getAnnIds(imgIds=[139]))
    assert first['category_id'] == 3 and first['score'] == 0.9 and first['bbox'] == [5, 3, 25, 6]
    assert second['bbox'] == [0.25, 0, 0.8735, 21]
    np.testing.assert_array_equal(coco.annToMask(first), detection().masks[0])
    assert (first['area'], second['area']) == (6 * 25, H)
    results = COCO()
    results.dataset = dict(images=content['images'], categories=content['categories'], annotations=[])
    results.createIndex()
    assert len(results.loadRes(content['annotations']).anns) == 4
    assert (tmp_path / 'overlays/b.jpg').is_file() and not (tmp_path / 'labels').exists()


def test_label_maps_as_coco(tmp_path):
    writer = Writer(tmp_path, CLASSES, PALETTE)
    writer.image(source(), segmentation())
    writer.close()
    coco = COCO(tmp_path / 'predictions.json')
    found = {each['category_id']: coco.annToMask(each) for each in coco.anns.values()}
    assert set(found) == {1, 3}
    np.testing.assert_array_equal(found[3], segmentation().labels == 2)


def test_nothing_is_valid_json(tmp_path):
    Writer(tmp_path, CLASSES, PALETTE).close()
    content = json.loads((tmp_path / 'predictions.json').read_text(encoding='utf-8'))
    assert content['images'] == content['annotations'] == []


def test_category_ids():
    assert category_ids(CLASSES) == [1, 2, 3]
    ids = category_ids(CocoDataset.METAINFO['classes'])
    assert len(ids) == 80 and (ids[0], ids[11], ids[12], ids[-1]) == (1, 13, 14, 90)
    assert category_ids([f'class {index}' for index in range(80)]) == list(range(1, 81))


def test_ids_of_coco_are_those_of_its_files(shared_data):
    coco = json.loads((shared_data / 'coco_ccby/annotations/instances_val.json').read_text())
    assert category_ids(CocoDataset.METAINFO['classes']) == [each['id'] for each in coco['categories']]


@pytest.mark.parametrize('size', [(48, 64), (47, 65)])
def test_videos(tmp_path, size):
    writer = Writer(tmp_path, CLASSES, PALETTE)
    clip = Source('/x/clip.mov', 'clip.mov', 'clip', 'video')
    video = writer.video(clip, 12.5)
    for _ in range(4):
        video.add(segmentation(size))
    video.close()
    writer.close()
    frames = Frames(find_sources([str(tmp_path / 'overlays/clip.mp4')])[0])
    found = list(frames)
    assert frames.fps == 12.5 and len(found) == 4 and found[0].shape == (48 - (size[0] == 47) * 2, 64, 3)
    expected = segmentation(size).overlay()[: found[0].shape[0], :64].astype(int)
    assert abs(found[0].astype(int) - expected).mean() < 12  # it is compressed
    labels = sorted(path.name for path in (tmp_path / 'labels/clip.mov').iterdir())
    assert labels == [f'{index:06}.png' for index in range(4)]
    images = json.loads((tmp_path / 'predictions.json').read_text(encoding='utf-8'))['images']
    assert [(each['id'], each['frame_id'], each['file_name']) for each in images] == [
        (index + 1, index, 'clip.mov') for index in range(4)
    ]


def test_videos_of_equal_names_do_not_share_a_folder_of_labels(tmp_path):
    for folder in ('one', 'two'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'clip.mov').write_bytes(b'')
    sources = find_sources([str(tmp_path / 'one/clip.mov'), str(tmp_path / 'two/clip.mov')])
    writer = Writer(tmp_path / 'out', CLASSES, PALETTE, overlays=None, coco=False)
    for count, clip in enumerate(sources, 1):
        video = writer.video(clip, 25)
        for _ in range(count):
            video.add(segmentation())
        video.close()
    folders = sorted((tmp_path / 'out/labels').iterdir())
    assert [(each.name, len(list(each.iterdir()))) for each in folders] == [('clip.mov', 1), ('clip_2.mov', 2)]


@pytest.mark.parametrize('reduce', [False, True])
@pytest.mark.parametrize('coco', [False, True])
def test_the_legend(tmp_path, reduce, coco):
    Writer(tmp_path, CLASSES, PALETTE, overlays=None, reduce_zero_label=reduce, coco=coco).close()
    legend = json.loads((tmp_path / 'classes.json').read_text(encoding='utf-8'))['classes']
    more = {**({'dataset_id': 3} if reduce else {}), **({'category_id': 3} if coco else {})}
    assert len(legend) == 3 and legend[2] == dict(index=2, name='gebäude', color=[250, 0, 90], **more)


@pytest.mark.parametrize('reduce', [False, True])
def test_ids_of_the_data_set_are_written_where_they_differ(tmp_path, reduce):
    writer = Writer(tmp_path, CLASSES, PALETTE, coco=False, reduce_zero_label=reduce, dataset_ids=True)
    writer.image(source(), segmentation())
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'labels/sub/a.png')), segmentation().labels + reduce)


def test_a_picture_that_no_jpeg_holds(tmp_path):
    writer = Writer(tmp_path, CLASSES, PALETTE, coco=False)
    writer.image(source('long', 'long.tif'), segmentation((2, 65_600)))
    assert cv2.imread(str(tmp_path / 'overlays/long.png')).shape == (2, 65_600, 3)
