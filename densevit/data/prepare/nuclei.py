"""Nuclei of the 2018 Data Science Bowl: from a folder of masks per image to COCO annotations.

Of the 670 images of stage1_train (BBBC038, CC0), 318 of at most 512 x 640 pixels are taken, named by the first 16
digits of their own names; nuclei of fewer than 21 pixels are left out.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from ...errors import UserError

__all__ = ['route', 'write_annotations']

_DIGITS = 16  # of the names here
_LEAST_AREA = 21  # pixels
# The first eight digits of each image's name.
_SPLITS = {
    'train': """
    00071198 0121d675 0287e7ee 02903040 03398329 0402a81e 06350c7c 077f026f 08ae2741 094afe36 0a7d30b2 0bf33d3d
    0e4c2e27 1023509c 10328b82 12f89395 139946af 13c8ff1f 13f2bec0 14cc1424 1631352d 16c3d593 1a75de9e 1a75e9f1
    1b2bf593 1b6044e4 1c2f9e12 1d02c4b5 1e488c42 1ee4a111 1f000806 1f9e429c 20e209f6 21408476 2227fd9b 23830d0e
    243443ae 24a20f2a 27c30f90 2817299f 29ea4f6e 2a2032c4 2c61fdcb 2c840a94 2dd3356f 2e172afb 2f929b06 30311520
    309ba76b 30f65741 317832f9 319b6cb8 33a5b0ff 34c9f4eb 356d9903 371a6723 3874755f 3934a094 3a22fe59 3a3fee42
    3b75fc03 3bfa8b3b 3ca81813 40946065 40b00d70 420f43d2 44ab6a09 4590d7d4 4948e3df 4a424e0c 4ae4f936 4bf6a5ec
    4c465a54 4ca50818 4d40de30 4d4ebfca 4d4f254f 52a4ac5a 52a6b8ae 54cb3328 54fe2d34 55ff2b0e 56d0da5b 573a657d
    57bd029b 589f86de 58c593bc 58cc121d 5908488d 5b12df18 5b2ccfb9 5c235b94 5d21aced 5d2c98fd 5ef4442e 61942930
    61a15ccb 65c8527c 66612c18 68f833de 6b0ac2ab 6c85029f 6fc83b33 72b18a40 72e8c49d 751f421d 76c44d1a 7798ca1d
    77ceeb87 79fe4194 7aa1aaa5 7ac468eb 7af09f98 80632d6b 813f41ef 815524d8 81e2dd95 831218e6 84e642d7 87ea7289
    88678981 88d5a03f 8a65e41c 8de0b1a2 8e8a7a14 8f27ebc7 8f6e49e4 930f246a 93c5638e 93cfd412 9520aff4 953211bc
    97126a97 97158b2f 9b25b8ff 9bf9f3dc 9cbc0700 9ebcfaf2 9f073db4 a022908f a0325cb7 a0afead3 a0de5538 a22b7882
    a246bcaa a31deaf0 a3a65623 a4c44fc5 a4c729ef a5e695fc a6001531 a6515d73 a6e81120 a9040135 aa4d989d aa83f5b4
    abbfff07 ac8169a0 ad473063 ad9d305c b0defa61 b0e35e06 b1a23983 b1eb0123 b2c5d865 b4de1e3e b6d50fa2 b6edad73
    b7a86f49 ba3997ed bb481eae bbce7ebc bc115ff7 bfe8ef19 bff98559 c00ae67f c043d5ac c04fa1a7 c0f17283 c169a778
    c1afe66c c322c72b c35e6e3e c6de5422 c75139ef c8ca945a cab48752 cbca32da cbff6036 cdab367b ce37f6dd ce88df73
    cf26c412 d1b17387 d1dbc6ee d2ce593b d32ea6d3 d4d88391 d7d12a2a d7db360f d7ec8003 d827a7d8 d910b2b1 da8ca06c
    dabfee30 dad607a2 dae976f1 dbbfe08a ddf1bf45 dec1764c df53d0b6 e2d22d3d e49fc2b4 e4ae1ced e50ac10d e5a7b8a9
    e5aeb5b3 ea94ba4b ead9464a eb1df8ed ec031f17 ed8c31b0 edd36ed8 ef6634ef f113626a f20eb459 f35ab345 f487cc82
    f534b43b f67e72b7 f6b16c88 f73e3795 f7e5dcfc f81ca7ee f8e74d40 f952cc65 f9ac03b0 fc5452f6 ff3e512b ff599c73
    """,
    'val': """
    04acab76 05040e2e 05a8f65e 06c77933 0acd2c22 0c2550a2 0c6507d4 136000dc 15039b3a 1c681dfa 20c37b1a 29780b28
    2ab91a44 2bf594e9 2cfa857e 305a8baa 33618678 3582166e 3b3f516e 3d0ca349 4327d275 4b274461 4e23ecf6 514ccfc7
    564fa390 58406ed8 5c6eb9a4 5d75a639 5ddbfba2 63d981a1 693bc645 6bd18a21 6bd33023 6d327ab4 6fb82031 718751b4
    785555c0 86f9087e 8a26b134 8bef203f 8e507d58 8f6597cd 947c0d94 98c5ead8 9a71a416 a101a00f a1777737 a9d884ba
    aa47f0b3 ae9f76b5 af8621ef b214800d b3a9f4c9 b4d902d4 bb61fc17 c0152b1a c6216cdc c89ac06d c9f305be ce9e1a58
    d35f25c8 d3ce382f d8607b21 df5cdd0e e216ec50 e321cfa9 e414b54f e66f25e1 e81c758e eb96fc6c ec486143 ed5be4b6
    f0a75e03 f0c9f135 f6cb37eb fa73f245 fdda64c4 feffce59
    """,
}
_SPLIT_OF = {digits: split for split, names in _SPLITS.items() for digits in names.split()}


def route(name: str) -> tuple[str, Callable[[bytes], bytes] | None] | None:
    """``<64 digits>/images/<64 digits>.png`` to ``train/<16 digits>.png``; masks wait in ``masks/``."""
    found = re.search(r'(?:^|/)([0-9a-f]{64})/(images|masks)/([\w-]+)\.png$', name)
    split = _SPLIT_OF.get(found[1][:8]) if found else None
    if split is None or '__MACOSX' in name:
        return None
    if found[2] == 'images':
        return f'{split}/{found[1][:_DIGITS]}.png', _to_rgb
    return f'masks/{found[1][:_DIGITS]}/{found[3]}.png', None


def _to_rgb(content: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(content)).convert('RGB').save(out, 'PNG')  # they have an opaque alpha channel
    return out.getvalue()


def write_annotations(folder: Path) -> None:
    """Write ``annotations/instances_{train,val}.json`` for the images and masks that lie in the folder.

    Raises:
        UserError: an image has no masks, or a mask is not of its image's size.
    """
    (folder / 'annotations').mkdir(exist_ok=True)
    for split in _SPLITS:
        images, annotations = [], []
        for index, path in enumerate(sorted((folder / split).glob('*.png')), 1):
            with Image.open(path) as image:
                width, height = image.size
            images.append({'id': index, 'file_name': path.name, 'width': width, 'height': height})
            masks = sorted((folder / 'masks' / path.stem).glob('*.png'))
            if not masks:
                raise UserError(f'the archive has no masks for the image {path.stem}...; get it anew.')
            for mask in masks:
                annotation = _annotation(mask, (height, width))
                if annotation['area'] >= _LEAST_AREA:
                    annotations.append({'id': len(annotations) + 1, 'image_id': index, **annotation})
        content = {
            'info': {'description': 'Data Science Bowl 2018, stage1_train (BBBC038), CC0'},
            'images': images,
            'annotations': annotations,
            'categories': [{'id': 1, 'name': 'nucleus', 'supercategory': 'cell'}],
        }
        (folder / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))


def _annotation(path: Path, size: tuple[int, int]) -> dict:
    with Image.open(path) as image:
        mask = np.asarray(image.convert('L')) > 0
    if mask.shape != size:
        raise UserError(f'the mask {path.name} has {mask.shape} pixels (H, W), but its image has {size}.')
    encoded = rle.encode(np.asfortranarray(mask, np.uint8))
    return {
        'category_id': 1,
        'segmentation': {'size': list(size), 'counts': encoded['counts'].decode()},
        'area': float(rle.area(encoded)),
        'bbox': rle.toBbox(encoded).tolist(),
        'iscrowd': 0,
    }
