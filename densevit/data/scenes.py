"""Generated scenes of things on stuff: the data set of the demo, in the ADE20K and the COCO layout.

A scene is a floor of two to four regions (stuff, told apart by texture) under three to seven shapes
(things, told apart by outline) that cover each other, throw shadows and run out of the picture. A thing's
hue hints at its class, but stuff takes any colour and covers most of the picture: colour and position of a
pixel tell little (a random forest on them reaches a mean IoU of about 0.1), a model has to look at
neighbourhoods.

Every picture has a seed of its own, made of the data set's seed, the split and its index; the first ten
scenes are therefore the same in a set of ten and in a set of a thousand.

`generate` writes::

    OUT/meta.json                               generator version, arguments, classes, palette
    OUT/ade/images/{training,validation}/       scene_00000.png, RGB
    OUT/ade/annotations/{training,validation}/  scene_00000.png, class id + 1 (0, void, does not occur)
    OUT/coco/{train2017,val2017}/               the same pictures (hard links where possible)
    OUT/coco/annotations/instances_{train2017,val2017}.json
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as rle

from densevit.errors import UserError

THINGS = ('disc', 'square', 'triangle', 'star', 'ring', 'cross', 'crescent', 'arrow')
STUFF = ('plain', 'stripes', 'checks', 'dots', 'bricks')
CLASSES = THINGS + STUFF
"""Things first: class id i < len(THINGS) is a thing, and its COCO category id is i + 1."""
# fmt: off
PALETTE = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
    (70, 240, 240), (240, 50, 230), (128, 128, 128), (170, 110, 40), (0, 0, 128), (250, 190, 212),
    (0, 100, 80),
)
"""RGB per class, in the order of CLASSES: for pictures of labels; the scenes themselves do not use it."""
# fmt: on

VERSION = 1  # raise it whenever the same arguments would give other files
SPLITS = {'train': 'training', 'val': 'validation'}  # COCO's word: ADE20K's word
NUM_THINGS = (3, 7)  # per scene, inclusive
DIAMETER = (26.0, 60.0)  # of a thing, in pixels, before its aspect ratio is changed
MIN_VISIBLE = 0.5  # fraction of a thing's area that must be seen; a thing that would show less is not placed
HUE_SPREAD = 18.0  # degrees, standard deviation; the hues of neighbouring thing classes are 45 degrees apart
MIN_SIDE = 64  # pixels; a smaller picture has no room for three things
SUPERSAMPLE = 4  # outlines are filled on a grid this many times finer: exact masks under smooth edges


@dataclass(frozen=True)
class Scene:
    """One picture and its labels, aligned pixel by pixel.

    image: (H, W, 3) uint8, RGB.
    semantic: (H, W) uint8, index into CLASSES.
    instances: (class id, (H, W) bool mask of the visible part) of every thing, front to back. The masks are
        disjoint and cover exactly the pixels whose semantic label is a thing.
    """

    image: np.ndarray
    semantic: np.ndarray
    instances: list[tuple[int, np.ndarray]]


# ------------------------------------------------------------ outlines of things
# Contours in a circle of radius 1, (N, 2) as x, y; a second contour inside the first is a hole.


def _arc(start: float, stop: float, radius: float = 1.0, center: float = 0.0) -> np.ndarray:
    """Points on the circle around (center, 0), angles in degrees."""
    angles = np.radians(np.linspace(start, stop, 48))
    return np.stack((center + radius * np.cos(angles), radius * np.sin(angles)), axis=1)


def _tips(*radii: float) -> np.ndarray:
    """One corner per radius, at equal angles."""
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.asarray(radii)[:, None] * np.stack((np.cos(angles), np.sin(angles)), axis=1)


_CROSS = [(0.3, 1), (0.3, 0.3), (1, 0.3), (1, -0.3), (0.3, -0.3), (0.3, -1)]
_ARROW = [(1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3), (-1, -0.3), (0.1, -0.3), (0.1, -0.8)]
OUTLINES = {
    'disc': [0.9 * _arc(0, 360)],
    'square': [_tips(1, 1, 1, 1)],
    'triangle': [_tips(1, 1, 1)],
    'star': [_tips(*(1, 0.42) * 5)],
    'ring': [_arc(0, 360), _arc(0, 360, radius=0.5)],
    'cross': [np.array(_CROSS + [(-x, -y) for x, y in _CROSS])],
    # outer arc, then back along a circle around (0.75, 0) that meets it at 60 degrees
    'crescent': [np.concatenate((_arc(60, 300), _arc(254, 106, radius=0.901, center=0.75)))],
    'arrow': [np.array(_ARROW)],
}


def _coverage(contours: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32: the part of every pixel that lies inside the contours, which are in pixels."""
    height, width = size
    fine = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE), np.uint8)
    cv2.fillPoly(fine, [np.round(contour * SUPERSAMPLE).astype(np.int32) for contour in contours], 255)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


@dataclass(frozen=True)
class _Thing:
    class_id: int
    coverage: np.ndarray  # (H, W) float32, 0-1, as if nothing were before it
    visible: np.ndarray  # (H, W) bool


def _place_things(rng: np.random.Generator, size: tuple[int, int]) -> list[_Thing]:
    """Things front to back: each lies behind the earlier ones, in a place where enough of it is seen."""
    height, width = size
    covered = np.zeros(size, bool)
    things: list[_Thing] = []
    wanted = rng.integers(NUM_THINGS[0], NUM_THINGS[1], endpoint=True)
    while len(things) < wanted:
        class_id = int(rng.integers(len(THINGS)))
        radius = rng.uniform(*DIAMETER) / 2
        stretch = rng.uniform(0.88, 1.14)
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        center = rng.uniform(0.05, 0.95, 2) * (width, height)
        outline = [contour * (radius * stretch, radius / stretch) for contour in OUTLINES[THINGS[class_id]]]
        area = sum(cv2.contourArea(c.astype(np.float32)) * (-1) ** i for i, c in enumerate(outline))
        coverage = _coverage([contour @ turn + center for contour in outline], size)
        visible = (coverage >= 0.5) & ~covered
        if visible.sum() >= MIN_VISIBLE * area:
            things.append(_Thing(class_id, coverage, visible))
            covered |= visible
    return things


# ------------------------------------------------------------ colour and light


def _color(rng: np.random.Generator, hue: float | None = None) -> np.ndarray:
    """An RGB colour, 0-1, of about this hue in degrees, or of any."""
    hue = rng.uniform(0, 360) if hue is None else rng.normal(hue, HUE_SPREAD) % 360
    hsv = np.array([[[hue, rng.uniform(0.15, 0.75), rng.uniform(0.4, 0.95)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def _blotches(rng: np.random.Generator, size: tuple[int, int], period: float) -> np.ndarray:
    """(H, W) float32 smooth noise, mean 0, about -1 to 1; period is the width of a blotch in pixels."""
    height, width = size
    coarse = rng.uniform(-1, 1, (int(height / period) + 3, int(width / period) + 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _ramp(angle: float, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 that rises from -1 to 1 across the picture in the direction of the angle."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in size), indexing='ij')
    return (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)


# ------------------------------------------------------------ texture of stuff


def _texture(name: str, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32: how much of the second colour each pixel has, 0-1. Periods are 4 to 9 pixels."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in size), indexing='ij')
    u = x * np.cos(angle) + y * np.sin(angle) + rng.uniform(0, 9)
    v = y * np.cos(angle) - x * np.sin(angle) + rng.uniform(0, 9)
    if name == 'plain':
        return 0.5 + 0.35 * _blotches(rng, size, rng.uniform(15, 30))
    if name == 'stripes':
        wave = np.sin(u * (2 * np.pi / rng.uniform(4, 8)))
        return _soft(wave, 0.4)
    if name == 'checks':
        side = rng.uniform(3.5, 5.5)
        wave = np.sin(u * (np.pi / side)) * np.sin(v * (np.pi / side))
        return _soft(wave, 0.25)
    if name == 'dots':
        period = rng.uniform(6.5, 9)
        row = np.floor(v / period)
        distance = np.hypot(_from_middle(u + row * (period / 2), period), _from_middle(v, period))
        return _soft(0.3 * period - distance, 0.6)
    if name == 'bricks':
        height = rng.uniform(5, 7)
        length = 2 * height
        row = np.floor(v / height)
        to_joint = np.minimum(
            height / 2 - abs(_from_middle(v, height)),
            length / 2 - abs(_from_middle(u + row * height, length)),
        )
        return _soft(0.8 - to_joint, 0.4)
    raise AssertionError(name)


def _from_middle(x: np.ndarray, period: float) -> np.ndarray:
    """Signed distance to the middle of the cell that x lies in."""
    return np.mod(x, period) - period / 2


def _soft(x: np.ndarray, width: float) -> np.ndarray:
    """A step from 0 to 1 at x = 0 that is about `width` wide on either side, so that edges do not alias."""
    return np.clip(0.5 + 0.5 * x / width, 0, 1)


def _floor(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The stuff of a scene: (H, W, 3) float32 image, 0-1, and (H, W) uint8 class ids.

    Regions are the Voronoi cells of random points in coordinates bent by smooth noise.
    """
    height, width = size
    chosen = rng.permutation(len(STUFF))[: rng.integers(2, 4, endpoint=True)]
    points = rng.uniform(0, 1, (len(chosen) + 1, 2)) * (height, width)  # the last class gets two cells
    y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in size), indexing='ij')
    y = y + 10 * _blotches(rng, size, 25)
    x = x + 10 * _blotches(rng, size, 25)
    nearest = np.argmin([np.hypot(y - py, x - px) for py, px in points], axis=0)
    which = np.minimum(nearest, len(chosen) - 1)
    image = np.empty((*size, 3), np.float32)
    for index, stuff in enumerate(chosen):
        first = _color(rng)
        second = first * rng.uniform(0.45, 0.65) + rng.uniform(-0.06, 0.06, 3)
        if rng.random() < 0.5:
            first, second = second, first
        part = _texture(STUFF[stuff], rng, size)[..., None]
        region = which == index
        image[region] = (first + part * (second - first))[region]
    return image, (len(THINGS) + chosen)[which].astype(np.uint8)


# ------------------------------------------------------------ the whole scene


def render_scene(rng: np.random.Generator, size: tuple[int, int] = (128, 160)) -> Scene:
    """Draw one scene.

    size: height and width in pixels. A larger picture has larger regions, but things of the same size.

    Raises:
        UserError: a side is shorter than MIN_SIDE.
    """
    size = _checked_size(size)
    image, semantic = _floor(rng, size)
    things = _place_things(rng, size)
    light = rng.uniform(0, 2 * np.pi)  # where it comes from
    reach = rng.uniform(2, 5)  # of a shadow, in pixels
    away = np.array([[1, 0, -reach * np.cos(light)], [0, 1, -reach * np.sin(light)]])
    for thing in reversed(things):
        shadow = cv2.warpAffine(cv2.GaussianBlur(thing.coverage, (0, 0), 2), away, size[::-1])
        image *= 1 - 0.45 * shadow[..., None]
        surface = _color(rng, thing.class_id * 360 / len(THINGS)) * (
            1 + _surface(rng, thing.coverage, light)[..., None]
        )
        image += thing.coverage[..., None] * (surface - image)
        semantic[thing.coverage >= 0.5] = thing.class_id
    image *= 1 + rng.uniform(0.1, 0.3) * _ramp(light, size)[..., None]
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.7))
    image += rng.normal(0, rng.uniform(0.01, 0.035), image.shape)
    image = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return Scene(image, semantic, [(thing.class_id, thing.visible) for thing in things])


def _surface(rng: np.random.Generator, coverage: np.ndarray, light: float) -> np.ndarray:
    """(H, W) float32 relative brightness of a thing: lit from one side, mottled, with a darker rim."""
    size = coverage.shape
    y, x = np.nonzero(coverage >= 0.5)
    extent = max(np.ptp(x), np.ptp(y)) + 1
    ramp = _ramp(light, size) - _ramp(light, size)[y, x].mean()
    depth = cv2.distanceTransform((coverage >= 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    rim = np.clip(1.6 - 0.5 * depth, 0, 1)
    mottle = _blotches(rng, size, rng.uniform(3, 8))
    return 0.35 * ramp * max(size) / extent / 2 + 0.12 * mottle - rng.uniform(0.2, 0.4) * rim


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side >= MIN_SIDE for side in sides):
        raise UserError(
            f'size is {size!r}, expected height and width in whole pixels, {MIN_SIDE} or more each; '
            'the demo uses (128, 160).'
        )
    return sides


# ------------------------------------------------------------ the data set


def scene_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """The generator of picture `index` of a split ('train' or 'val'); no two pictures share one."""
    return np.random.default_rng(np.random.SeedSequence((seed, list(SPLITS).index(split), index)))


def generate(
    out: str | os.PathLike[str],
    num_train: int = 400,
    num_val: int = 80,
    size: tuple[int, int] = (128, 160),
    seed: int = 0,
) -> Path:
    """Write the data set into the folder `out` and return its path.

    The folder appears when everything is written, never half-filled. Where it already holds the same data
    set, nothing is done.

    size: height and width in pixels.

    Raises:
        UserError: an argument out of range, or `out` holds something else.
    """
    size = _checked_size(size)
    for name, value, least in (('num_train', num_train, 1), ('num_val', num_val, 1), ('seed', seed, 0)):
        if not isinstance(value, int) or value < least:
            raise UserError(f'{name} is {value!r}, expected a whole number, {least} or more.')
    out = Path(out).resolve()
    meta = {
        'generator': 'densevit.data.scenes',
        'version': VERSION,
        'seed': seed,
        'size': list(size),
        'num_train': num_train,
        'num_val': num_val,
        'things': list(THINGS),
        'stuff': list(STUFF),
        'palette': [list(color) for color in PALETTE],
    }
    if _holds(out, meta):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f'.{out.name}.{os.getpid()}')
    try:
        for split, count in (('train', num_train), ('val', num_val)):
            _write_split(unfinished, split, count, size, seed)
        (unfinished / 'meta.json').write_text(json.dumps(meta, indent=1) + '\n')
        try:
            unfinished.rename(out)
        except OSError:  # another process was quicker
            if not _holds(out, meta):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out


def _holds(out: Path, meta: dict) -> bool:
    """Whether `out` holds the data set of meta; False if there is nothing yet."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / 'meta.json').read_text())
    except (OSError, ValueError):
        found = None
    if found == meta:
        return True
    if isinstance(found, dict) and found.get('generator') == meta['generator']:
        differing = ', '.join(key for key in meta if found.get(key) != meta[key])
        what = f'a scene data set made with other values of {differing}'
    else:
        what = 'something that is not a scene data set'
    raise UserError(f'{out} holds {what}; choose another folder or remove this one.')


def _write_split(root: Path, split: str, count: int, size: tuple[int, int], seed: int) -> None:
    ade_images = root / 'ade/images' / SPLITS[split]
    ade_labels = root / 'ade/annotations' / SPLITS[split]
    coco_images = root / 'coco' / f'{split}2017'
    coco_labels = root / 'coco/annotations'
    for folder in (ade_images, ade_labels, coco_images, coco_labels):
        folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(count):
        scene = render_scene(scene_rng(seed, split, index), size)
        name = f'scene_{index:05d}.png'
        _write_png(ade_images / name, cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
        _write_png(ade_labels / name, scene.semantic + 1)
        try:
            os.link(ade_images / name, coco_images / name)
        except OSError:  # a file system without hard links
            shutil.copyfile(ade_images / name, coco_images / name)
        images.append({'id': index + 1, 'file_name': name, 'height': size[0], 'width': size[1]})
        for class_id, mask in scene.instances:
            annotations.append({'id': len(annotations) + 1, 'image_id': index + 1, **_annotation(class_id, mask)})
    content = {
        'info': {'description': f'densevit generated scenes, seed {seed}'},
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': [{'id': i + 1, 'name': name, 'supercategory': 'thing'} for i, name in enumerate(THINGS)],
    }
    (coco_labels / f'instances_{split}2017.json').write_text(json.dumps(content))


def _write_png(path: Path, pixels: np.ndarray) -> None:
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f'{path} could not be written')


def _annotation(class_id: int, mask: np.ndarray) -> dict:
    """COCO's entry for one thing. Run lengths for all: occlusion cuts things apart and leaves holes."""
    code = rle.encode(np.asfortranarray(mask, np.uint8))
    return {
        'category_id': class_id + 1,
        'bbox': rle.toBbox(code).tolist(),
        'area': int(mask.sum()),
        'iscrowd': 0,
        'segmentation': {'size': list(mask.shape), 'counts': code['counts'].decode()},
    }
