"""Faults planted into a sound COCO data set: each is named, with its files and its cure."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from densevit.check.data.masks import MaskError, measure
from tests.check.data.planted import HEIGHT, WIDTH, Planted, coco, noise

pytest.importorskip('mmdet')

FAULTS: dict[str, tuple[Callable[[Planted], None], str, str, str, str]] = {}


def fault(kind: str, file: str = '', cure: str = '', level: str = 'error') -> Callable[[Callable], Callable]:
    """A function that plants a fault of this kind, which concerns a file and is named with this cure."""

    def add(plant: Callable[[Planted], None]) -> Callable[[Planted], None]:
        FAULTS[plant.__name__] = (plant, kind, file, cure, level)
        return plant

    return add


def annotation(planted: Planted, index: int = 2) -> dict:
    """An annotation of the training set: 2 is the cat, 3 the dog of image b."""
    return planted.content['train.json']['annotations'][index]


def change(kind: str, cure: str = '', level: str = 'error', name: str = '', index: int = 2, **fields) -> None:
    """Plant a fault that is one annotation with other fields; None leaves one out."""

    def plant(planted: Planted) -> None:
        one = annotation(planted, index)
        one.update(fields)
        for key in [key for key, value in one.items() if value is None]:
            del one[key]

    plant.__name__ = name or f'{kind}-{"-".join(fields)}'
    fault(kind, 'train/b.jpg', f'annotation {index + 1} .*{cure}', level)(plant)


# -------------------------------------------------------------------------------------------------- file
def _write(planted: Planted, text: str) -> None:
    del planted.content['train.json']
    (planted.root / 'train.json').write_text(text)


@fault('json-broken', 'train.json', 'is not JSON .*was the download cut short')
def json_cut_short(planted: Planted) -> None:
    _write(planted, json.dumps(planted.content['train.json'])[:-50])


@fault('json-broken', 'train.json', 'the file is empty')
def json_without_content(planted: Planted) -> None:
    _write(planted, '')


@fault('json-broken', 'train.json', 'is not JSON')
def json_is_a_picture(planted: Planted) -> None:
    del planted.content['train.json']
    shutil.copy(planted.root / 'train/a.jpg', planted.root / 'train.json')


@fault('panoptic-json', 'train.json', 'panoptic segmentation .*prepare_data.py coco')
def panoptic_instead_of_instances(planted: Planted) -> None:
    planted.content['train.json']['annotations'] = [dict(image_id=1, file_name='a.png', segments_info=[])]


@fault('json-not-coco', 'train.json', 'is of captions; instances are needed')
def captions_instead_of_instances(planted: Planted) -> None:
    planted.content['train.json']['annotations'] = [dict(id=1, image_id=1, caption='a cat')]


@fault('json-not-coco', 'train.json', 'predictions, a list of results')
def predictions_instead_of_the_truth(planted: Planted) -> None:
    _write(planted, json.dumps([dict(annotation(planted), score=0.9)]))


@fault('json-not-coco', 'train.json', "there is: shapes, imagePath, as in LabelMe's.*export it as COCO")
def another_format(planted: Planted) -> None:
    _write(planted, json.dumps(dict(shapes=[], imagePath='a.jpg')))


@fault('json-entry', 'train.json', "'images' .* has no 'height'")
def image_without_height(planted: Planted) -> None:
    del planted.content['train.json']['images'][1]['height']


@fault('json-entry', 'train.json', 'a width that is no number of pixels')
def image_of_no_width(planted: Planted) -> None:
    planted.content['train.json']['images'][1]['width'] = 0


@fault('json-entry', 'train.json', "'annotations' .* is no dict")
def annotation_is_a_list(planted: Planted) -> None:
    planted.content['train.json']['annotations'][1] = [1, 2]


@fault('annotation-file-missing', cure=r"'trian.json' is not in .*did you mean 'train.json'\?")
def annotation_file_misspelt(planted: Planted) -> None:
    planted.split().ann_file = 'trian.json'


@fault('data-root-missing', cure='"python tools/prepare_data.py coco"')
def coco_is_missing(planted: Planted) -> None:
    files = dict(ann_file='annotations/instances_train2017.json', data_prefix=dict(img='train2017/'))
    planted.split().update(data_root='no_data/coco', **files)


# --------------------------------------------------------------------------------------------- categories
@fault('class-names', 'train.json', r'0 of 3.*config: tower, mast \| file: cat, dog.*num_classes=2')
def names_of_another_data_set(planted: Planted) -> None:
    planted.split().metainfo.classes = ('tower', 'mast')


@fault('class-absent', 'train.json', "'Cat' of the config is not in .*did you mean 'cat'")
def name_in_capitals(planted: Planted) -> None:
    planted.split().metainfo.classes = ('Cat', 'dog')


@fault('class-order', 'train.json', 'config: dog, cat | file: cat, dog.*set metainfo')
def names_in_another_order(planted: Planted) -> None:
    planted.split().metainfo.classes = ('dog', 'cat')


@fault('class-left-out', 'train.json', '1 of 2 categories .*left out: dog', 'note')
def category_left_out(planted: Planted) -> None:
    planted.split().metainfo.classes = ('cat',)
    for head in planted.cfg.model.roi_head.values():
        head.num_classes = 1


@fault('class-absent', 'train.json', 'no metainfo in the config: these are the 80 classes of COCO')
def own_names_not_in_the_config(planted: Planted) -> None:
    del planted.split()['metainfo']


@fault('classes-not-a-list', cure=r"did you mean classes=\('cat',\)")
def classes_as_a_string(planted: Planted) -> None:
    planted.split().metainfo.classes = 'cat'


@fault('class-count', cure='num_classes=80; set num_classes=2')
def heads_count_others(planted: Planted) -> None:
    planted.cfg.model.roi_head.bbox_head.num_classes = 80


@fault('class-never-seen', cure=r'1 of 2 classes have no instance \(dog\)', level='note')
def class_without_instance(planted: Planted) -> None:
    content = planted.content['train.json']
    content['annotations'] = [each for each in content['annotations'] if each['category_id'] == 3]


@fault('duplicate-categories-id', 'train.json', 'number them anew')
def category_id_twice(planted: Planted) -> None:
    planted.content['train.json']['categories'].append(dict(id=3, name='mouse'))


@fault('duplicate-categories-name', 'train.json', "'dog'")
def category_name_twice(planted: Planted) -> None:
    planted.content['train.json']['categories'].append(dict(id=9, name='dog'))


# --------------------------------------------------------------------------------------------------- ids
@fault('duplicate-annotations-id', 'train.json', 'mmdet refuses the file; number them anew')
def annotation_id_twice(planted: Planted) -> None:
    annotation(planted)['id'] = 1


@fault('duplicate-images-id', 'b.jpg', 'their annotations mixed')
def image_id_twice(planted: Planted) -> None:
    planted.content['train.json']['images'][1]['id'] = 1


@fault('duplicate-images-file-name', 'a.jpg', 'the annotations of one id', 'warning')
def file_name_twice(planted: Planted) -> None:
    planted.content['train.json']['images'][1]['file_name'] = 'a.jpg'


@fault('duplicate-annotations', 'train.json', 'annotated more than once.*remove the copies', 'warning')
def object_twice(planted: Planted) -> None:
    planted.content['train.json']['annotations'].append(dict(annotation(planted), id=99))


@fault('unknown-image', 'train.json', r'image_id 77, not among its images \(1 of 6.*left out', 'warning')
def annotation_of_an_absent_image(planted: Planted) -> None:
    annotation(planted)['image_id'] = 77


@fault('unknown-image', 'train.json', 'one is a number, the other a text')
def image_ids_of_another_type(planted: Planted) -> None:
    for each in planted.content['train.json']['annotations']:
        each['image_id'] = str(each['image_id'])


@fault('unknown-category', 'train.json', r'category_id 0, not among its categories \(3, 5\)')
def category_counted_from_zero(planted: Planted) -> None:
    annotation(planted)['category_id'] = 0


# ----------------------------------------------------------------------------------------- annotations
change('bbox-missing', r"no 'bbox'; write \[x, y, width, height\]", bbox=None)
change('bbox-format', r'four numbers: \[1, 2, 3\]', name='bbox_of_three', bbox=[1, 2, 3])
change('bbox-format', 'nan', name='bbox_with_nan', bbox=[10, 10, float('nan'), 15])
change('bbox-format', "'10'", name='bbox_of_text', bbox=['10', '10', '20', '15'])
change('bbox-empty', r'\[10, 10, 0, 15\]; it is left out', 'warning', name='bbox_of_no_width', bbox=[10, 10, 0, 15])
change('bbox-empty', '-20', 'warning', name='bbox_of_negative_width', bbox=[30, 10, -20, 15])
change('bbox-outside', 'in 56x40 pixels', 'warning', name='bbox_outside', bbox=[50, 10, 20, 15])
change('bbox-outside', 'in 56x40 pixels', 'warning', name='bbox_left_of_the_image', bbox=[-30, 10, 20, 15])
change('box-mask-mismatch', r'where the mask has \[10, 10, 20, 15\]; compute', 'warning', bbox=[35, 2, 10, 6])
change('area-missing', "write the mask's or the box's area", area=None)
change('area-zero', 'area that is not above 0: 0; it is left out', 'warning', area=0)
change('area-mismatch', 'where its mask covers 300', 'warning', area=9000)
change('segmentation-missing', "no 'segmentation'; the pipeline loads masks", segmentation=None)
change('segmentation-missing', 'with_mask=False', name='segmentation_empty', segmentation=[])
change('polygon-format', 'not a list of polygons', name='polygon_flat', segmentation=[10, 10, 30, 10, 30, 25])
change('polygon-format', 'points are pairs', name='polygon_of_pairs', segmentation=[[[10, 10], [30, 10], [30, 25]]])
change('polygon-format', 'not numbers', name='polygon_of_nan', segmentation=[[10, 10, 30, float('nan'), 30, 25]])
change('polygon-points', 'a polygon has 4 numbers', 'warning', name='polygon_of_2', segmentation=[[10, 10, 30, 10]])
change('polygon-points', '7 numbers', 'warning', name='polygon_odd', segmentation=[[10, 10, 30, 10, 30, 25, 10]])
change(
    'polygon-outside',
    r'from \(10, 10\) to \(90, 25\) in 56x40',
    'warning',
    name='polygon_outside',
    segmentation=[[10, 10, 90, 10, 90, 25, 10, 25]],
)
change('mask-empty', 'enclose nothing', 'warning', name='polygon_line', segmentation=[[10, 10, 20, 10, 30, 10]])
change('mask-empty', 'no pixel', 'warning', name='rle_empty', segmentation=dict(size=[40, 56], counts=[2240]))
change('rle-size', 'width before height', name='rle_turned', segmentation=dict(size=[56, 40], counts=[2240]))
change(
    'rle-size', r'where the image has \[40, 56\]', name='rle_of_another', segmentation=dict(size=[8, 9], counts=[72])
)
change('rle-broken', 'of 30 pixels, .* says 2240', name='rle_short', segmentation=dict(size=[40, 56], counts=[30]))
change('rle-broken', 'cannot be decoded', name='rle_text', segmentation=dict(size=[40, 56], counts='\u00e4\u00f6'))
change('rle-broken', 'counts is None', name='rle_without_counts', segmentation=dict(size=[40, 56]))
change('rle-broken', 'cannot be decoded', name='rle_negative', segmentation=dict(size=[40, 56], counts=[2250, -10]))
change('iscrowd-missing', 'it counts as 0', 'note', iscrowd=None)
change('crowd-polygon', 'set iscrowd=0', 'warning', iscrowd=1)
change('score', 'look like predictions', 'warning', score=0.9)


@fault('bbox-format', 'train/a.jpg', '6 of 6 boxes fit their masks when read as x1, y1, x2, y2')
def corners_beside_masks(planted: Planted) -> None:
    for each in planted.content['train.json']['annotations']:
        x, y, width, height = each['bbox']
        each['bbox'] = [x, y, x + width, y + height]


@fault('bbox-format', 'train/a.jpg', 'boxes leave their image, but none would if they were x1, y1, x2, y2')
def corners_without_masks(planted: Planted) -> None:
    planted.split().pipeline[1].with_mask = False
    for each in planted.content['train.json']['annotations']:
        each.update(bbox=[30, 20, 50, 36], area=320)


@fault('bbox-format', 'train/a.jpg', 'when read as the centre, width, height')
def centres_instead_of_corners(planted: Planted) -> None:
    for each in planted.content['train.json']['annotations']:
        x, y, width, height = each['bbox']
        each['bbox'] = [x + width / 2, y + height / 2, width, height]


@fault('bbox-format', 'train/a.jpg', 'when read as y, x, height, width')
def rows_before_columns(planted: Planted) -> None:
    for each in planted.content['train.json']['annotations']:
        x, y, width, height = each['bbox']
        each['bbox'] = [y, x, height, width]


@fault('bbox-format', 'train/a.jpg', 'fractions of the image')
def fractions_instead_of_pixels(planted: Planted) -> None:
    for each in planted.content['train.json']['annotations']:
        each['bbox'] = [value / size for value, size in zip(each['bbox'], (WIDTH, HEIGHT) * 2, strict=True)]


@fault('bbox-empty', 'train/a.jpg', 'it is left out')
def all_boxes_are_empty(planted: Planted) -> None:
    for each in planted.content['train.json']['annotations']:
        each['bbox'] = [10, 10, 0, 0]


# ------------------------------------------------------------------------------------------------ images
@fault('image-missing', 'train/b.jpg', '1 of 3 image files do not exist')
def image_is_missing(planted: Planted) -> None:
    (planted.root / 'train/b.jpg').unlink()


@fault('image-missing', 'train/train/a.jpg', r"it is in '.*/train': set data_prefix")
def folder_in_the_names_too(planted: Planted) -> None:
    for image in planted.content['train.json']['images']:
        image['file_name'] = 'train/' + image['file_name']


@fault('image-missing', 'train/B.jpg', "there is 'b.jpg': mend the name")
def name_in_other_capitals(planted: Planted) -> None:
    planted.content['train.json']['images'][1]['file_name'] = 'B.jpg'


@fault('image-missing', 'b.jpg', 'backslashes of Windows')
def names_of_windows(planted: Planted) -> None:
    planted.content['train.json']['images'][1]['file_name'] = 'train\\b.jpg'


@fault('no-instance', cure='every AP will be nan', level='warning')
def validation_without_annotations(planted: Planted) -> None:
    planted.content['val.json']['annotations'] = []


@fault('image-unreadable', 'train/b.jpg', 'copy it again or take it out')
def image_is_cut_short(planted: Planted) -> None:
    file = planted.root / 'train/b.jpg'
    file.write_bytes(file.read_bytes()[:1200])


@fault('size-differs', 'train/b.jpg', 'has 28x20 pixels, but the annotation file says 56x40.*resized')
def image_is_resized(planted: Planted) -> None:
    planted.save('train/b.jpg', noise('b', HEIGHT // 2, WIDTH // 2, 3))


@fault('exif-rotated', 'train/b.jpg', 'write the image upright without EXIF')
def image_is_turned_by_exif(planted: Planted) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    planted.save('train/b.jpg', noise('b', HEIGHT, WIDTH, 3), exif=exif)


@fault('image-16-bit', 'train/b.jpg', 'write 8-bit images', 'warning')
def image_with_16_bits(planted: Planted) -> None:
    planted.save('train/b.jpg', np.full((HEIGHT, WIDTH), 4000, np.uint16), format='PNG')


@fault('no-image-left', 'train.json', 'filter_empty_gt.*0 of them have annotations')
def no_annotation_at_all(planted: Planted) -> None:
    planted.content['train.json']['annotations'] = []


@fault('no-image-left', 'train.json', 'min_size.*0 are large enough')
def all_images_too_small(planted: Planted) -> None:
    planted.split().filter_cfg.min_size = 200


@fault('image-without-annotation', 'b.jpg', '1 of 3 images .*left out', 'note')
def image_without_annotation(planted: Planted) -> None:
    content = planted.content['train.json']
    content['annotations'] = [each for each in content['annotations'] if each['image_id'] != 2]


@fault('evaluator-file', cure='is not the file of val_dataloader.dataset.*set val_evaluator.ann_file=')
def evaluator_scores_another_file(planted: Planted) -> None:
    planted.cfg.val_evaluator = dict(type='densevit.CocoMetric', ann_file='elsewhere.json')


@fault('leakage', 'val/d.jpg', 'keep them apart', 'warning')
def training_image_in_validation(planted: Planted) -> None:
    shutil.copy(planted.root / 'train/a.jpg', planted.root / 'val/d.jpg')


def test_sound_data_gives_nothing(tmp_path):
    planted = coco(tmp_path)
    assert planted.findings() == []
    # a crowd has RLE; ids and categories may have gaps; a box may be rounded
    annotation(planted, 3)['iscrowd'] = 1
    annotation(planted)['bbox'] = [9.6, 9.6, 20.9, 15.9]
    planted.content['train.json']['annotations'][0]['id'] = 10**12
    assert planted.findings() == []


def test_masks_are_not_asked_for_where_none_are_loaded(tmp_path):
    planted = coco(tmp_path)
    for split in ('train', 'val'):
        planted.split(split).pipeline[1].with_mask = False
        for each in planted.content[f'{split}.json']['annotations']:
            del each['segmentation']
    assert planted.findings() == []


@pytest.mark.parametrize('name', FAULTS)
def test_fault(tmp_path, name):
    plant, kind, file, cure, level = FAULTS[name]
    planted = coco(tmp_path)
    plant(planted)
    found = [each for each in planted.findings() if each.kind == kind]
    assert found and found[0].level == level, planted.findings()
    assert re.search(cure, found[0].message), found[0].message
    assert not file or any(name.endswith(file) for name in found[0].files), found[0].files


def test_run_lengths_are_measured_as_pycocotools_does():
    mask_api = pytest.importorskip('pycocotools.mask')
    for seed in range(40):
        random = np.random.default_rng(seed)
        height, width = random.integers(1, 90, 2)
        mask = np.zeros((height, width), np.uint8, order='F')
        for _ in range(random.integers(1, 30)):
            y, x = random.integers(0, height), random.integers(0, width)
            mask[y : y + random.integers(1, 30), x : x + random.integers(1, 30)] = random.random() > 0.3
        code = mask_api.encode(mask)
        text = dict(size=[int(height), int(width)], counts=code['counts'].decode())
        if not mask.any():
            with pytest.raises(MaskError, match='no pixel'):
                measure(text, int(width), int(height))
            continue
        extent = measure(text, int(width), int(height))
        rows, columns = np.nonzero(mask)
        assert extent.area == mask.sum()
        assert extent.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize('seed', range(20))
def test_broken_run_lengths_are_refused_and_never_crash(seed):
    random = np.random.default_rng(seed)
    text = ''.join(map(chr, random.integers(33, 126, random.integers(0, 60))))
    with pytest.raises(MaskError):
        measure(dict(size=[HEIGHT, WIDTH], counts=text), WIDTH, HEIGHT)


def test_polygons_in_fractions_of_the_image(tmp_path):
    planted = coco(tmp_path)
    for annotation in planted.content['train.json']['annotations']:
        annotation['segmentation'] = [[0.1, 0.1, 0.6, 0.1, 0.6, 0.7, 0.1, 0.7]]
    (found,) = planted.findings(('error',))
    assert found.kind == 'polygon-format' and '6 of 6 polygons lie within 0 to 1' in found.message
    assert len(found.files) == 3


def test_nothing_but_crowds_to_train_on(tmp_path):
    planted = coco(tmp_path)
    for annotation in planted.content['train.json']['annotations']:
        annotation['iscrowd'] = 1
    assert [each.kind for each in planted.findings(('error',))] == ['no-instance']


@pytest.mark.parametrize(
    ('head', 'words'),
    [
        (b'\xef\xbb\xbf{}', 'save it as UTF-8 without BOM'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
        (b'<html>', 'web page'),
    ],
)
def test_a_file_that_is_no_json_is_told_by_its_beginning(tmp_path, head, words):
    planted = coco(tmp_path)
    planted.check()
    planted.content.pop('train.json')
    (planted.root / 'train.json').write_bytes(head)
    (found,) = planted.findings(('error',))
    assert found.kind == 'json-broken' and words in found.message
