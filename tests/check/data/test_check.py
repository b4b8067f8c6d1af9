"""Every kind of bad data is named before training; real samples pass, with the right counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from densevit.check.data import DatasetReport, require_sound_data
from densevit.errors import UserError

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')


def check(cfg: Config, splits: tuple[str, ...] = ('train', 'val', 'test')) -> list[DatasetReport]:
    return require_sound_data(cfg, splits)


CLASSES = ('sky', 'tree', 'car')
HEIGHT, WIDTH = 40, 56


def picture(file: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(list(file.name.encode()))
    Image.fromarray(numbers.integers(0, 255, (*size, 3), dtype=np.uint8)).save(file)


def label(file: Path, values: list[int], size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, dtype=np.uint8), size)).save(file)


# ---------------------------------------------------------------------------------------- segmentation
@pytest.fixture
def seg_root(tmp_path: Path) -> Path:
    root = tmp_path / 'root' / 'toy'
    for name in 'abc':
        picture(root / f'images/{name}.jpg')
        label(root / f'labels/{name}.png', [0, 1, 1, 2, 255])
    return root


def seg_config(root: Path, **dataset) -> Config:
    options = dict(
        type='BaseSegDataset',
        data_root=str(root),
        metainfo=dict(classes=CLASSES),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    head = dict(type='FCNHead', num_classes=len(CLASSES))
    return Config(
        dict(
            default_scope='mmseg',
            model=dict(type='EncoderDecoder', decode_head=dict(head), auxiliary_head=[dict(head)]),
            train_dataloader=dict(dataset={**options, **dataset}),
        )
    )


def test_sound_segmentation_data_is_counted(seg_root):
    (report,) = check(seg_config(seg_root))
    assert (report.images, report.instances, report.root) == (3, None, str(seg_root))
    assert report.shares == pytest.approx(dict(sky=0.2, tree=0.4, car=0.2), abs=1e-3)
    assert report.ignored == pytest.approx(0.2, abs=1e-3)
    assert '3 images' in str(report) and 'tree 40.0%' in str(report)


def test_wrapped_datasets_are_found_and_shared_ones_are_checked_once(seg_root):
    cfg = seg_config(seg_root)
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=2, dataset=inner), dict(inner)]
    )
    cfg.val_dataloader = dict(dataset=inner)
    (report,) = check(cfg)
    assert report.path == 'train_dataloader.dataset.datasets[0].dataset'
    inner.data_root = '/no/such/root'
    with pytest.raises(UserError, match='val_dataloader.dataset: .*/no/such/root'):
        check(cfg, splits=['val'])


def test_data_root_missing(seg_root):
    cfg = seg_config(seg_root.parent / 'absent')
    with pytest.raises(UserError, match=f'{seg_root.parent}/absent.*images, labels.*dataset.data_root=PATH'):
        check(cfg)


def test_data_root_of_an_environment_variable_is_named(tmp_path):
    file = tmp_path / 'config.py'
    file.write_text(
        "data_root = '{{$DENSEVIT_TEST_DATA:no_data}}/toy'\n"
        "train_dataloader = dict(dataset=dict(type='BaseSegDataset', data_root=data_root))"
    )
    with pytest.raises(UserError, match=r'data_root=PATH or the environment variable DENSEVIT_TEST_DATA .now .no_data'):
        check(Config.fromfile(file))


@pytest.mark.parametrize(
    ('root', 'advice'),
    [
        ("base + '/part'", 'data_root=PATH or the environment variable DENSEVIT_TEST_DATA'),
        ("'no_data/other'", 'train_dataloader.dataset.datasets.0.data_root=PATH'),
        ("'no_data/toys'", 'train_dataloader.dataset.datasets.0.data_root=PATH'),
    ],
)
def test_advice_moves_this_data_root(tmp_path, root, advice):
    file = tmp_path / 'config.py'
    file.write_text(
        "base = data_root = '{{$DENSEVIT_TEST_DATA:no_data}}/toy'\n"
        f"inner = dict(type='BaseSegDataset', data_root={root})\n"
        "train_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=[inner]))"
    )
    with pytest.raises(UserError, match=f'; set --cfg-options {advice}') as caught:
        check(Config.fromfile(file))
    assert ('environment' in str(caught.value)) == ('environment' in advice)


@pytest.mark.parametrize('wrong', ['parent', 'child', 'other'])
def test_wrong_layout(seg_root, wrong):
    given = {'parent': seg_root.parent, 'child': seg_root / 'images', 'other': seg_root}[wrong]
    if wrong == 'other':
        (seg_root / 'labels').rename(seg_root / 'masks')
    advice = 'there is: images, masks' if wrong == 'other' else f"they are in '{seg_root}'"
    with pytest.raises(UserError, match=f"is not in the data root '{given}'.*{advice}"):
        check(seg_config(given))


@pytest.mark.parametrize('made', ['index_ade20k.pkl', 'images/ADE/training/x.txt'])
def test_full_ade20k_download_is_recognized(tmp_path, made):
    (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / made).write_text('')
    prefix = dict(img_path='images/training', seg_map_path='annotations/training')
    with pytest.raises(UserError, match='full ADE20K download.*ADEChallengeData2016'):
        check(seg_config(tmp_path, data_prefix=prefix))


def test_suffixes(seg_root):
    with pytest.raises(UserError, match=r"no image left.*img_suffix='.tif'; there is: .jpg \(3\)"):
        check(seg_config(seg_root, img_suffix='.tif'))
    with pytest.raises(UserError, match=r"3 of 3 images .*seg_map_suffix='_labels.png'.*.png \(3\)"):
        check(seg_config(seg_root, seg_map_suffix='_labels.png'))


def test_images_without_label(seg_root):
    (seg_root / 'labels/b.png').unlink()
    with pytest.raises(UserError, match='1 of 3 images have no label file.*labels/b.png'):
        check(seg_config(seg_root))


def test_label_outside_the_classes(seg_root):
    label(seg_root / 'labels/b.png', [0, 1, 7])
    with pytest.raises(UserError, match='labels/b.png.* value 7, .*3 classes.*num_classes 8 classes'):
        check(seg_config(seg_root))


def test_forgotten_reduce_zero_label_is_proposed(seg_root):
    label(seg_root / 'labels/b.png', [0, 1, 2, 3])
    with pytest.raises(UserError, match='value 3.*reduce_zero_label=True'):
        check(seg_config(seg_root))
    (report,) = check(seg_config(seg_root, reduce_zero_label=True))
    assert report.shares['car'] > 0


@pytest.mark.parametrize('nested', [False, True])
def test_reduce_zero_label_of_the_pipeline_is_that_of_the_dataset(seg_root, nested):
    step = dict(type='LoadAnnotations', reduce_zero_label=True)
    pipeline = [dict(type='RandomChoice', transforms=[[step]])] if nested else [step]
    place = r'dataset.pipeline\[0\]' + (r'.transforms\[0\]\[0\]' if nested else '')
    both = f'{place}.reduce_zero_label=True but val_dataloader.dataset.reduce_zero_label=False'
    cfg = seg_config(seg_root)
    cfg.val_dataloader = dict(dataset={**cfg.train_dataloader.dataset, 'pipeline': pipeline})
    with pytest.raises(UserError, match=f'{both}; give both the same'):
        check(cfg)
    cfg.val_dataloader.dataset.reduce_zero_label = True
    check(cfg)


def test_void_label_is_that_of_the_heads(seg_root):
    cfg = seg_config(seg_root)
    cfg.model.decode_head.ignore_index = cfg.model.auxiliary_head[0].ignore_index = 9
    with pytest.raises(UserError, match='value 255.*void 9'):
        check(cfg)


def test_labels_that_are_all_ignored(seg_root):
    for name in 'abc':
        label(seg_root / f'labels/{name}.png', [0, 255])
    with pytest.raises(UserError, match=r'every pixel .* ignored.*\[0, 255\]'):
        check(seg_config(seg_root, reduce_zero_label=True))
    (report,) = check(seg_config(seg_root))
    assert [each.kind for each in report.findings] == ['mask-binary-255']


def test_label_of_colours_or_of_another_size(seg_root):
    picture(seg_root / 'labels/c.png')
    with pytest.raises(UserError, match='labels/c.png.* 3 channels'):
        check(seg_config(seg_root))
    label(seg_root / 'labels/c.png', [0, 1], size=(WIDTH, HEIGHT))
    with pytest.raises(UserError, match=f'labels/c.png.* {HEIGHT}x{WIDTH} .*image is {WIDTH}x{HEIGHT}'):
        check(seg_config(seg_root))


def test_palette_labels_are_read_as_indices(seg_root):
    for name in 'abc':
        opened = Image.open(seg_root / f'labels/{name}.png')
        opened.putpalette(list(range(255, -1, -1)) * 3)
        opened.save(seg_root / f'labels/{name}.png')
    assert Image.open(seg_root / 'labels/a.png').mode == 'P'
    (report,) = check(seg_config(seg_root))
    assert report.shares['tree'] == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize('damage', ['empty', 'cut', 'garbage'])
@pytest.mark.parametrize('file', ['images/b.jpg', 'labels/b.png'])
def test_unreadable_file(seg_root, file, damage):
    content = (seg_root / file).read_bytes()
    damaged = {'empty': b'', 'cut': content[: len(content) // 2], 'garbage': b'<html>' * 99}[damage]
    (seg_root / file).write_bytes(damaged)
    with pytest.raises(UserError, match=f'cannot read the .*{file}'):
        check(seg_config(seg_root))


def test_classes_as_a_string(seg_root):
    with pytest.raises(UserError, match=r"classes='tower' is a string.*\('tower',\)"):
        check(seg_config(seg_root, metainfo=dict(classes='tower')))


def test_head_with_another_number_of_classes(seg_root):
    cfg = seg_config(seg_root)
    cfg.model.auxiliary_head[0].num_classes = 19
    with pytest.raises(UserError, match=r'has 3 classes .*model.auxiliary_head\[0\].num_classes=19; set .*=3'):
        check(cfg)


# ------------------------------------------------------------------------------------------- detection
def coco() -> dict:
    square = [[1, 1, 9, 1, 9, 9, 1, 9]]
    annotation = dict(image_id=1, category_id=3, bbox=[1, 1, 8, 8], area=64, iscrowd=0, segmentation=square)
    return dict(
        images=[dict(id=n, file_name=f'{n}.jpg', height=HEIGHT, width=WIDTH) for n in (1, 2)],
        annotations=[
            dict(annotation, id=1),
            dict(annotation, id=2, category_id=5),
            dict(annotation, id=3, iscrowd=1),
        ],
        categories=[dict(id=3, name='cat'), dict(id=5, name='dog')],
    )


@pytest.fixture
def det_root(tmp_path: Path) -> Path:
    for name in (1, 2):
        picture(tmp_path / f'train/{name}.jpg')
    return tmp_path


def det_config(root: Path, content: dict | str | None = None, classes=('cat', 'dog'), **dataset) -> Config:
    content = coco() if content is None else content
    (root / 'train.json').write_text(content if isinstance(content, str) else json.dumps(content))
    options = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='train.json',
        metainfo=dict(classes=classes),
        data_prefix=dict(img='train/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        ],
    )
    heads = dict(
        bbox_head=dict(type='Shared2FCBBoxHead', num_classes=len(classes)),
        mask_head=dict(type='FCNMaskHead', num_classes=len(classes)),
    )
    return Config(
        dict(
            default_scope='mmdet',
            model=dict(type='MaskRCNN', rpn_head=dict(type='RPNHead', num_classes=1), roi_head=heads),
            train_dataloader=dict(dataset={**options, **dataset}),
        )
    )


def test_sound_coco_data_is_counted_as_mmdet_counts(det_root):
    from mmdet.registry import DATASETS

    cfg = det_config(det_root)
    (report,) = check(cfg)
    assert (report.images, report.instances) == (1, 2)  # image 2 is empty, annotation 3 a crowd
    assert report.shares == dict(cat=0.5, dog=0.5)
    assert report.images == len(DATASETS.build({**cfg.train_dataloader.dataset, 'pipeline': []}))


def test_class_names_that_do_not_match(det_root):
    both = 'config: tower, mast | file: cat, dog'
    with pytest.raises(UserError, match=f'no image left.*{both.replace("|", ".")}'):
        check(det_config(det_root, classes=('tower', 'mast')))
    with pytest.raises(UserError, match="'mast' of the config is not in"):
        check(det_config(det_root, classes=('cat', 'mast')))
    with pytest.raises(UserError, match='order.*config: dog, cat . file: cat, dog'):
        check(det_config(det_root, classes=('dog', 'cat')))
    (report,) = check(det_config(det_root, classes=('dog',)))
    assert report.instances == 1


def test_everything_filtered_away(det_root):
    with pytest.raises(UserError, match='no image left: 0 of 2 images.*50'):
        check(det_config(det_root, filter_cfg=dict(filter_empty_gt=True, min_size=50)))
    empty = {**coco(), 'annotations': []}
    with pytest.raises(UserError, match='no image left: 0 of 2 .*filter_empty_gt.*0 of them have annotations'):
        check(det_config(det_root, empty))
    assert check(det_config(det_root, empty, test_mode=True))[0].images == 2


def test_broken_or_foreign_json(det_root):
    with pytest.raises(UserError, match='train.json.* is not JSON .*line 1'):
        check(det_config(det_root, json.dumps(coco())[:-40]))
    with pytest.raises(UserError, match="not a COCO file: no list 'images'; there is: shapes"):
        check(det_config(det_root, dict(shapes=[])))
    content = coco()
    del content['images'][1]['height']
    with pytest.raises(UserError, match="item of 'images' .* has no 'height'"):
        check(det_config(det_root, content))


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (dict(category_id=77), 'annotation 2 .* category_id 77.*3, 5'),
        (dict(bbox=None), "annotation 2 .* no 'bbox'"),
        (dict(segmentation=[]), "annotation 2 .* no 'segmentation'"),
    ],
)
def test_bad_annotation(det_root, change, match):
    content = coco()
    content['annotations'][1].update(change)
    with pytest.raises(UserError, match=match):
        check(det_config(det_root, content))


@pytest.mark.parametrize('several', [False, True])
def test_evaluator_scores_the_file_of_its_dataset(det_root, monkeypatch, several):
    cfg = det_config(det_root)
    cfg.val_dataloader = cfg.train_dataloader
    metric = dict(type='densevit.CocoMetric', ann_file='elsewhere/val.json')
    cfg.val_evaluator = [dict(type='mmdet.DumpDetResults'), metric] if several else metric
    option = 'val_evaluator.1.ann_file' if several else 'val_evaluator.ann_file'
    file = det_root / 'train.json'
    with pytest.raises(UserError, match=f"^{option}: 'elsewhere/val.json' .*val_dataloader.*; set {option}={file}"):
        check(cfg)
    monkeypatch.chdir(det_root)
    for same in (None, str(file), './train.json'):
        (cfg.val_evaluator[1] if several else cfg.val_evaluator).ann_file = same
        check(cfg)


def test_annotations_need_no_mask_where_none_is_loaded(det_root):
    content = coco()
    for annotation in content['annotations']:
        del annotation['segmentation']
    check(det_config(det_root, content, pipeline=[dict(type='LoadAnnotations', with_bbox=True)]))


def test_image_files(det_root):
    (det_root / 'train/1.jpg').unlink()
    with pytest.raises(UserError, match='1 of 1 image files do not exist.*train/1.jpg.*data_prefix'):
        check(det_config(det_root))
    (det_root / 'train/1.jpg').write_bytes(b'')
    with pytest.raises(UserError, match='cannot read .*train/1.jpg.*empty'):
        check(det_config(det_root))


def test_number_of_classes_of_the_detection_heads(det_root):
    cfg = det_config(det_root)
    del cfg.model.roi_head.mask_head.num_classes  # mmdet's default is 80
    with pytest.raises(UserError, match='has 2 classes .*model.roi_head.mask_head.num_classes=80'):
        check(cfg)


def test_other_formats_are_loaded_but_not_judged(det_root):
    from mmdet.datasets import CocoDataset
    from mmengine.registry import DATASETS

    class Foreign(CocoDataset):
        """Reads another format, as LVIS and COCO panoptic do."""

        def load_data_list(self) -> list[dict]:
            self.cat_ids = []
            return [dict(img_id=1, width=WIDTH, height=HEIGHT)] * len(json.loads(Path(self.ann_file).read_text()))

    DATASETS.register_module(name='Foreign', module=Foreign)
    try:
        options = dict(type='Foreign', filter_cfg=None)
        (report,) = check(det_config(det_root, '[1, 2, 3]', **options))
        assert report.images == 3 and 'Foreign' in report.findings[0].message
        with pytest.raises(UserError, match='no image left of .*train.json'):
            check(det_config(det_root, '[]', **options))
    finally:
        DATASETS.module_dict.pop('Foreign')


def test_annotation_file_missing(det_root):
    with pytest.raises(UserError, match="'absent.json' is not in the data root"):
        check(det_config(det_root, ann_file='absent.json'))


# ---------------------------------------------------------------------------------------- real samples
def test_camvid_sample(shared_data):
    classes = json.loads((shared_data / 'camvid/classes.json').read_text())
    prefix = dict(img_path='images/validation', seg_map_path='annotations/validation')
    cfg = seg_config(shared_data / 'camvid', metainfo=dict(classes=classes), data_prefix=prefix)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head[0]):
        head.num_classes = 11
    (report,) = check(cfg)
    assert report.images == 101
    assert set(report.shares) == set(classes) and min(report.shares.values()) > 0
    assert sum(report.shares.values()) + report.ignored == pytest.approx(1)


def test_ade20k_sample(shared_data):
    cfg = seg_config(shared_data / 'ade20k_samples')
    prefix = dict(img_path='images/validation', seg_map_path='annotations/validation')
    dataset = dict(type='ADE20KDataset', data_root=str(shared_data / 'ade20k_samples'), data_prefix=prefix)
    cfg.train_dataloader = dict(dataset=dataset)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head[0]):
        head.num_classes = 150
    (report,) = check(cfg)
    assert report.images == 9 and len(report.shares) == 150


@pytest.mark.parametrize(('name', 'images'), [('coco_ccby', 45), ('nuclei', 78)])
def test_coco_samples(shared_data, tmp_path, name, images):
    root = shared_data / name
    cfg = det_config(tmp_path)
    names = [each['name'] for each in json.loads((root / 'annotations/instances_val.json').read_text())['categories']]
    cfg.train_dataloader.dataset.update(
        data_root=str(root),
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val'),
        metainfo=dict(classes=names),
        test_mode=True,
    )
    for head in cfg.model.roi_head.values():
        head.num_classes = len(names)
    (report,) = check(cfg)
    assert report.images == images and report.instances > images
    assert sum(report.shares.values()) == pytest.approx(1)


def test_damaged_copy_of_a_real_image(shared_data, tmp_path):
    shutil.copytree(shared_data / 'ade20k_samples', tmp_path / 'ade')
    victim = sorted((tmp_path / 'ade/images/training').iterdir())[4]
    victim.write_bytes(victim.read_bytes()[:5000])
    prefix = dict(img_path='images/training', seg_map_path='annotations/training')
    cfg = seg_config(tmp_path / 'ade', type='ADE20KDataset', metainfo=None, data_prefix=prefix)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head[0]):
        head.num_classes = 150
    with pytest.raises(UserError, match=f'cannot read .*{victim.name}'):
        check(cfg)
