"""What a COCO file says: ids, categories, and the images that are left of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from ...errors import did_you_mean
from .annotations import check_annotations
from .coco_file import read_coco
from .images import check_images
from .parallel import Crew
from .probe import ImageFacts
from .report import DatasetReport
from .steps import steps
from .text import counted, first, short, spread
from .trial import SAMPLES

__all__ = ['check_coco']

_SAMPLE = 20_000  # annotations that a quick check looks at


def check_coco(
    report: DatasetReport, dataset: Any, leaf: dict, cfg: Config, crew: Crew, thorough: bool
) -> dict[str, ImageFacts]:
    """Look at a dataset that mmdet's ``CocoDataset`` reads, note what is wrong with it, and count its instances.

    Returns:
        what was read of its images. The data set itself gets a list of a few samples, where it is sound.
    """
    file = os.path.abspath(dataset.ann_file)
    content = read_coco(report, file, dataset.test_mode)
    if content is None:
        return {}
    _check_ids(report, file, content)
    if thorough:
        _check_copies(report, file, content['annotations'])
    classes = list(dataset.metainfo.get('classes') or ())
    wanted = _wanted(report, file, content, classes, 'metainfo' in leaf)
    folder = dataset.data_prefix.get('img') or ''
    sizes = {
        image['id']: (image['width'], image['height'], os.path.join(folder, image['file_name']))
        for image in content['images']
    }
    sound = _placed(report, file, content, sizes)
    masks = any(step.get('with_mask') for _, step in steps(leaf, ''))
    check_annotations(report, sound if thorough else spread(sound, _SAMPLE), sizes, masks, crew)
    instances: dict[Any, list[str]] = {}  # image id -> class names, without crowds
    for annotation in sound:
        if annotation['category_id'] in wanted:
            names = instances.setdefault(annotation['image_id'], [])
            if not annotation.get('iscrowd'):
                names.append(wanted[annotation['category_id']])
    kept = _kept(report, file, content, dataset, instances) if wanted else []
    total = Counter(name for image in kept for name in instances.get(image['id'], ()))
    report.images, report.instances = len(kept), sum(total.values())
    report.shares = {name: total[name] / max(report.instances, 1) for name in classes}
    paths = {os.path.join(folder, image['file_name']): image for image in (kept or content['images'])}
    facts = check_images(report, list(paths), leaf, cfg, crew, thorough)
    _check_sizes(report, paths, facts)
    _check_seen(report, total, classes, thorough, learns=report.path.startswith('train') and not dataset.test_mode)
    if not report.errors:
        try:
            dataset.data_list = _infos(dataset, spread(kept, SAMPLES), sound, wanted)
        except Exception as error:  # annotations can hold anything
            report.add('error', 'dataset-broken', f'a {type(dataset).__name__} cannot read {file!r}: {error}.', [file])
    return facts


def _infos(dataset: Any, images: Sequence[dict], annotations: Sequence[dict], wanted: dict[int | str, str]) -> list:
    """What mmdet's ``CocoDataset`` hands to its pipeline, of some images."""
    classes = list(dataset.metainfo.get('classes') or ())
    dataset.cat_ids = list(wanted)
    dataset.cat2label = {number: classes.index(name) for number, name in wanted.items()}
    of = {image['id']: [] for image in images}
    for annotation in annotations:
        if annotation['image_id'] in of:
            of[annotation['image_id']].append(annotation)
    infos = []
    for index, image in enumerate(images):
        raw = {'raw_img_info': {**image, 'img_id': image['id']}, 'raw_ann_info': of[image['id']]}
        infos.append({**dataset.parse_data_info(raw), 'sample_idx': index})
    return infos


def _check_ids(report: DatasetReport, file: str, content: dict) -> None:
    for key, entry, level, why in (
        ('images', 'id', 'error', 'all but the last of them are lost, and their annotations mixed'),
        ('images', 'file_name', 'warning', 'the image is read as often, each time with the annotations of one id'),
        ('categories', 'id', 'error', 'all but the last of them are lost'),
        ('categories', 'name', 'error', 'their instances would be of different classes'),
        ('annotations', 'id', 'error', 'mmdet refuses the file'),
    ):
        counts = Counter(item[entry] for item in content[key] if isinstance(item.get(entry), int | str))
        twice = [value for value, count in counts.items() if count > 1]
        if not twice:
            continue
        names = [item['file_name'] for item in content[key] if key == 'images' and item[entry] in set(twice)]
        report.add(
            level,
            f'duplicate-{key}-{entry.replace("_", "-")}',
            f'{file!r}: {key} with the same {entry}, {first([short(value) for value in twice], 4)} '
            f'({counts[twice[0]]} of the first): {why}; number them anew.',
            names or [file],
        )


def _check_copies(report: DatasetReport, file: str, annotations: Sequence[dict]) -> None:
    boxes = Counter(
        (item.get('image_id'), item.get('category_id'), repr(item['bbox'])) for item in annotations if item.get('bbox')
    )
    again = [key for key, count in boxes.items() if count > 1]
    if again:
        image, category, box = again[0]
        report.add(
            'warning' if len(again) > len(boxes) / 100 else 'note',
            'duplicate-annotations',
            f'{file!r}: {len(again)} of {len(boxes)} objects are annotated more than once, the first in image '
            f'{image!r} (category {category!r}, box {box:.80}): each is learnt and scored as often; remove the copies.',
            [file],
        )


def _wanted(report: DatasetReport, file: str, content: dict, classes: list[str], given: bool) -> dict[int | str, str]:
    """Category id to name, of those that the config has; names and order are compared."""
    names = [category['name'] for category in content['categories']]
    wanted = {each['id']: each['name'] for each in content['categories'] if each['name'] in classes}
    both = f'config: {first(classes, 10)} | file: {first(names, 10)}'
    absent = [name for name in classes if name not in names]
    extra = [name for name in names if name not in classes]
    ours = '' if given else ' (no metainfo in the config: these are the 80 classes of COCO)'
    write = f'set metainfo=dict(classes=({first([repr(name) for name in names], 20)},)) of the dataset'
    if not wanted:
        report.add(
            'error',
            'class-names',
            f'no image left: 0 of {len(content["images"])}, since no class name of the config is in {file!r} '
            f'({both}){ours}; {write} and num_classes={len(names)} of the heads.',
            [file],
        )
    elif absent:
        near = did_you_mean(absent[0], extra) or f'; {write}.'
        report.add(
            'error',
            'class-absent',
            f'class {absent[0]!r} of the config is not in {file!r}, which would shift the labels of the others '
            f'({len(absent)} absent; {both}){ours}{near}',
            [file],
        )
    elif list(wanted.values()) != classes:
        report.add(
            'error',
            'class-order',
            f'the classes must be in the order of {file!r}, since mmdet numbers them so ({both}); {write}.',
            [file],
        )
    if wanted and extra:
        report.add(
            'note',
            'class-left-out',
            f'{len(extra)} of {len(names)} categories of {file!r} are not among the classes of the config and are left '
            f'out: {first(extra, 6)}.',
            [file],
        )
    return wanted


def _placed(report: DatasetReport, file: str, content: dict, images: dict[Any, tuple]) -> list[dict]:
    """The annotations whose image and category are there; the others are noted."""
    categories = {category['id'] for category in content['categories']}
    annotations = content['annotations']
    for key, known in (('image_id', images), ('category_id', categories)):
        wrong = [each for each in annotations if each.get(key) not in known]
        if not wrong:
            continue
        one = wrong[0]
        share = f'{len(wrong)} of {len(annotations)} annotations'
        what = f'annotation {one.get("id")!r:.60} of {file!r} has '
        if one.get(key) is None:
            what += f'no {key!r}'
        else:
            among = 'its images' if key == 'image_id' else f'its categories ({first(sorted(known, key=repr), 10)})'
            what += f'{key} {one[key]!r:.60}, not among {among}'
        as_text = {str(each) for each in known}
        cure = 'mend or remove them.'
        if one.get(key) is not None and str(one[key]) in as_text:
            cure = 'one is a number, the other a text: write both alike.'
        elif key == 'image_id' and len(wrong) < len(annotations):
            cure = 'they are left out; was the file split without its annotations?'
        report.add(
            'error' if key == 'category_id' or one.get(key) is None or len(wrong) > len(annotations) / 2 else 'warning',
            'unknown-image' if key == 'image_id' else 'unknown-category',
            f'{what} ({share}); {cure}',
            [file],
        )
    return [each for each in annotations if each.get('image_id') in images and each.get('category_id') in categories]


def _kept(report: DatasetReport, file: str, content: dict, dataset: Any, instances: dict[Any, list[str]]) -> list[dict]:
    """The images that mmdet's filter leaves."""
    filters = {} if dataset.test_mode else dataset.filter_cfg or {}
    least = filters.get('min_size', 0)
    large = [each for each in content['images'] if min(each['width'], each['height']) >= least]
    bare = [each for each in large if each['id'] not in instances]
    drops = filters.get('filter_empty_gt', False)
    kept = [each for each in large if each['id'] in instances or not drops]
    if not kept:
        report.add(
            'error',
            'no-image-left',
            f'no image left: 0 of {len(content["images"])} images of {file!r} pass {dict(filters)}; '
            f'{len(instances)} of them have annotations of the classes, {len(large)} are large enough.',
            [file],
        )
    elif bare:
        drop = 'left out (filter_empty_gt=True)' if drops else 'kept as background (filter_empty_gt=False)'
        report.add(
            'note' if len(bare) <= len(large) / 2 else 'warning',
            'image-without-annotation',
            f'{len(bare)} of {len(content["images"])} images have no annotation of the classes, the first is '
            f'{bare[0]["file_name"]!r}; they are {drop}.',
            [each['file_name'] for each in bare],
        )
    if len(large) < len(content['images']):
        tiny = [each['file_name'] for each in content['images'] if min(each['width'], each['height']) < least]
        report.add(
            'note',
            'image-left-out',
            f'{len(tiny)} of {len(content["images"])} images are smaller than min_size={least} and left '
            f'out, the first is {tiny[0]!r}.',
            tiny,
        )
    return kept


def _check_sizes(report: DatasetReport, images: dict[str, dict], facts: dict[str, ImageFacts]) -> None:
    """The file's sizes beside those of the images."""
    differ, unturned = [], []
    for name, each in facts.items():
        size = images[name]['width'], images[name]['height']
        if not each.size[0] or size == each.size:
            continue
        (unturned if each.turned >= 5 and size == each.size[::-1] else differ).append(name)
    if unturned:
        report.add(
            'error',
            'exif-rotated',
            f'{counted(unturned, "image")} an EXIF orientation, by which it is turned when it is loaded, but its '
            'annotations are not turned: write the image upright without EXIF.',
            unturned,
        )
    if differ:
        size, one = facts[differ[0]].size, images[differ[0]]
        report.add(
            'error',
            'size-differs',
            f'{counted(differ, "image")} {size[0]}x{size[1]} pixels, but the annotation file says '
            f'{one["width"]}x{one["height"]}: boxes and masks would not fit; was it resized after annotation?',
            differ,
        )


def _check_seen(
    report: DatasetReport, total: Counter[str], classes: Sequence[str], thorough: bool, *, learns: bool
) -> None:
    if report.images and not report.instances and not learns:
        report.add('warning', 'no-instance', 'no image has an instance of the classes, so that every AP will be nan.')
    elif report.images and not report.instances:
        message = (
            'no image has an object to learn: none is annotated, or all are crowds (iscrowd=1), which are ignored; '
            'annotate objects, and write iscrowd=0 for single ones.'
        )
        report.add('error', 'no-instance', message)
    unseen = [name for name in classes if not total[name]]
    if thorough and unseen and report.instances and not report.errors:
        expected = report.path.startswith('train') and report.images >= 10 * len(classes)
        report.add(
            'warning' if expected else 'note',
            'class-never-seen',
            f'{len(unseen)} of {len(classes)} classes have no instance ({first(unseen, 6)}), so their AP will be nan.',
        )
