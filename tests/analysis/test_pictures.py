"""Pictures of labels and instances."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from densevit.analysis.pictures import class_colors, contact_sheet, draw_instances, draw_labels, sheet, with_names

PALETTE = [(255, 0, 0), (0, 0, 255)]


@pytest.fixture
def image():
    return np.full((20, 30, 3), 100, np.uint8)


def test_labels_tint_their_pixels_only(image):
    labels = np.full((20, 30), 255)
    labels[:5, :7] = 1
    labels[10:12] = -1
    drawn = draw_labels(image, labels, PALETTE, alpha=1.0)
    assert (drawn[:5, :7] == PALETTE[1]).all()
    assert (drawn[5:] == 100).all()
    assert (image == 100).all()


@pytest.mark.parametrize('kind', ['masks', 'boxes'])
def test_instances(image, kind):
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 4:12, 6:20] = True  # the second is empty
    outlines = {'masks': masks} if kind == 'masks' else {'boxes': np.array([[6, 4, 19, 11], [1, 1, 3, 4]])}
    drawn = draw_instances(image, [0, 1], PALETTE, ['a', 'b'], **outlines)
    assert drawn.shape == image.shape
    assert drawn[4, 10, 0] > 100  # the upper edge of the box, red
    assert (image == 100).all()
    blue = (drawn == PALETTE[1]).all(axis=2).any()
    assert blue == (kind == 'boxes')


def test_scores_stand_behind_the_names(image):
    wide = np.repeat(image, 10, axis=1)
    boxes = np.array([[6, 15, 59, 18]])
    plain, scored = (
        draw_instances(wide, [0], PALETTE, ['a'], boxes=boxes, scores=scores) for scores in (None, np.array([0.5]))
    )
    changed = (plain != scored).any(axis=(0, 2))
    assert changed.any() and changed.nonzero()[0].min() > 10  # only to the right of the name


def test_masks_may_come_one_by_one(image):
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 4:12, 6:20] = masks[1, 8:, 2:9] = True
    expected = draw_instances(image, [0, 1], PALETTE, ['a', 'b'], masks=masks)
    assert (draw_instances(image, [0, 1], PALETTE, ['a', 'b'], masks=iter(masks)) == expected).all()


def test_colours_of_a_dataset_are_filled_up():
    colors = class_colors([[1, 2, 3]], 3)
    assert colors[0] == (1, 2, 3) and len(set(colors)) == 3
    assert class_colors(None, 3)[1:] == colors[1:]


def test_nothing_to_draw(image):
    assert (draw_instances(image, [], PALETTE, ['a', 'b'], masks=np.zeros((0, 20, 30), bool)) == image).all()


def test_sheets(image, tmp_path):
    files = [sheet(tmp_path / f'{index}.png', ('one', 'two'), [[image, image]], scale=2) for index in range(3)]
    width, height = Image.open(files[0]).size
    assert width > 2 * 60 and height > 40
    assert Image.open(contact_sheet(tmp_path / 'all.png', files, columns=2)).size == (2 * width, 2 * height)


def test_names_stand_in_their_regions():
    label = np.zeros((200, 300), np.int64)
    label[:, 150:] = 1
    label[:3, :3] = 2
    blank = np.full((200, 300, 3), 90, np.uint8)
    drawn = with_names(blank, label, ['left', 'right', 'tiny'])
    changed = (drawn != blank).any(-1)
    assert changed[:, :150].any() and changed[:, 150:].any() and not changed[:8].any()
    assert (with_names(blank, np.full((200, 300), 255), ['left']) == blank).all()
