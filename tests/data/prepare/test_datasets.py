"""Which archive it is, and what is said about the wrong one."""

from __future__ import annotations

import pytest

from densevit.data.prepare.datasets import DATASETS
from densevit.data.prepare.recognise import recognise
from densevit.errors import UserError

from . import archive_files as files

RIGHT = {
    'ade20k': ['ADEChallengeData2016'],
    'coco': ['COCO 2017'],
    'camvid': ["SegNet's", '32 class numbers', '32 colours', 'images of CamVid'],
    'nuclei': ['corrected masks', 'original masks'],
}
DSB = '0' * 64


@pytest.mark.parametrize('dataset, names, what', [
    ('ade20k', files.ade20k(), RIGHT['ade20k'][0]),
    ('ade20k', files.ade20k(top='./'), RIGHT['ade20k'][0]),
    ('coco', files.coco_images('train2017', 2), RIGHT['coco'][0]),
    ('coco', files.coco_images('val2017', 2), RIGHT['coco'][0]),
    ('coco', files.coco_annotations(2, 2), RIGHT['coco'][0]),
    # Kaggle's has everything in one
    ('coco', ['coco2017/train2017/000000000009.jpg', 'coco2017/test2017/000000000001.jpg'], RIGHT['coco'][0]),
    ('camvid', files.camvid_segnet(), RIGHT['camvid'][0]),
    ('camvid', files.camvid_numbers(), RIGHT['camvid'][1]),
    ('camvid', files.camvid_colours(), RIGHT['camvid'][2]),
    ('camvid', ['0001TP_006690_L.png', '0016E5_07959_L.png'], RIGHT['camvid'][2]),
    ('camvid', ['701_StillsRaw_full/0001TP_006690.png'], RIGHT['camvid'][3]),
    ('nuclei', files.nuclei(), RIGHT['nuclei'][0]),
    ('nuclei', [f'{DSB}/images/{DSB}.png', f'{DSB}/masks/{DSB}.png'], RIGHT['nuclei'][1]),
])  # fmt: skip
def test_the_right_one(dataset, names, what):
    assert what in recognise(DATASETS[dataset], list(names), 'x.zip').what


@pytest.mark.parametrize('dataset, names, what', [
    ('ade20k', ['ADE20K_2021_17_01/images/ADE/training/cultural/art/ADE_frame_00000001.jpg'], 'full ADE20K'),
    ('ade20k', ['ADE20K_2021_17_01/index_ade20k.pkl'], 'full ADE20K'),
    ('ade20k', ['ADE20K_2016_07_26/images/training/a/abbey/ADE_train_00000970.jpg'], 'full ADE20K'),
    ('ade20k', ['training/a/abbey/ADE_train_00000970_seg.png'], 'full ADE20K'),
    ('ade20k', ['release_test/testing/ADE_test_00000001.jpg', 'release_test/list.txt'], 'test images of the ADE20K'),
    ('ade20k', ['annotations_instance/training/ADE_train_00000001.png'], 'instance annotations'),
    ('coco', ['annotations/panoptic_train2017.json', 'annotations/panoptic_train2017.zip'], 'panoptic'),
    ('coco', ['annotations/stuff_val2017.json', 'stuff_train2017_pixelmaps.zip'], 'stuff'),
    ('coco', ['train2014/COCO_train2014_000000000009.jpg'], 'COCO 2014'),
    ('coco', ['annotations/instances_train2014.json', 'annotations/instances_val2014.json'], 'COCO 2014'),
    ('coco', ['test2017/000000000001.jpg'], 'test or unlabeled'),
    ('coco', ['unlabeled2017/000000000001.jpg'], 'test or unlabeled'),
    ('coco', ['annotations/image_info_test-dev2017.json'], 'test or unlabeled'),
    ('coco', ['annotations/captions_train2017.json'], 'captions or keypoints'),
    ('coco', ['coco/labels/train2017/000000000009.txt', 'coco/train2017.txt'], 'format of YOLO'),
    ('coco', ['lvis_v1_train.json'], 'LVIS'),
    ('camvid', ['camvid_tiny/images/0001TP_006690.png'], 'a form that is not known'),
    ('nuclei', [f'{DSB}/images/{DSB}.png'], 'without masks'),
    ('ade20k', ['VOCdevkit/VOC2012/JPEGImages/2007_000027.jpg'], 'Pascal VOC'),
    ('camvid', ['leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png'], 'Cityscapes'),
    ('coco', ['holiday/1.jpg', 'holiday/2.jpg'], 'it holds holiday/1.jpg, holiday/2.jpg'),
    ('coco', [], 'it holds nothing'),
])  # fmt: skip
def test_the_wrong_one_is_named_and_the_right_one_too(dataset, names, what):
    with pytest.raises(UserError) as caught:
        recognise(DATASETS[dataset], names, 'x.zip')
    message = str(caught.value)
    assert "'x.zip' is" in message and what in message and '\n' not in message
    assert all(remote.url in message for remote in DATASETS[dataset].remotes)


@pytest.mark.parametrize('dataset', DATASETS)
@pytest.mark.parametrize('other', DATASETS)
def test_another_data_set(dataset, other):
    names = list({
        'ade20k': files.ade20k, 'camvid': files.camvid_segnet, 'nuclei': files.nuclei,
        'coco': lambda: files.coco_images('val2017', 1),
    }[other]())  # fmt: skip
    if dataset == other:
        recognise(DATASETS[dataset], names, 'x.zip')
    else:
        with pytest.raises(UserError, match=f'prepare_data.py {other} --archive'):
            recognise(DATASETS[dataset], names, 'x.zip')


@pytest.mark.parametrize('dataset', DATASETS.values(), ids=DATASETS)
def test_the_tables_agree(dataset):
    parts = [part.path for part in dataset.parts]
    assert sorted(path for remote in dataset.remotes for path in remote.parts) == sorted(parts)
    assert {path for pair in dataset.pairs for path in pair} <= set(parts)
    for remote in dataset.remotes:
        algorithm, _, digits = remote.digest.partition(':')
        assert len(digits) == {'': 0, 'sha1': 40, 'sha256': 64}[algorithm]


@pytest.mark.parametrize('dataset', DATASETS.values(), ids=DATASETS)
def test_the_config_reads_what_is_prepared(dataset, monkeypatch):
    from densevit.config.reading import load_config

    monkeypatch.setenv('DENSEVIT_DATA', '/somewhere')
    cfg = load_config(dataset.config)
    root = f'/somewhere/{dataset.folder}'
    read = set()
    for split in ('train', 'val'):
        leaf = cfg[f'{split}_dataloader'].dataset
        assert leaf.data_root == root
        read |= {path.rstrip('/') for path in leaf.data_prefix.values()} | {leaf.get('ann_file')}
    assert {part.path for part in dataset.parts} == read - {None, ''}
