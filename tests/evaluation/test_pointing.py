"""The pointing game on maps made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from densevit.errors import UserError
from densevit.evaluation.pointing import PointingGame, energy_in_mask, points_at
from densevit.heads.class_attention import ClassAttention

SIZE = (6, 8)  # of the image; patches of 2 x 4 pixels


def sample(maps: torch.Tensor, labels: torch.Tensor | None = None, **fields) -> dict:
    rows, columns = torch.arange(0, SIZE[0] + 1, 2.0), torch.arange(0, SIZE[1] + 1, 4.0)
    made = BaseDataElement(metainfo=dict(ori_shape=SIZE, img_path='a.png'), **fields)
    made.class_attention = ClassAttention(
        metainfo=dict(ori_shape=SIZE), maps=maps, presence=torch.ones(len(maps)), rows=rows, columns=columns
    )
    if labels is not None:
        made.gt_sem_seg = PixelData(data=labels[None])
    return made.to_dict()


def metric(**options) -> PointingGame:
    made = PointingGame(**options)
    made.dataset_meta = dict(classes=('left', 'right', 'nowhere'))
    return made


def halves() -> torch.Tensor:
    """Class 0 in the columns 0 to 2, class 1 in the others, one row void."""
    labels = torch.zeros(SIZE, dtype=torch.uint8)
    labels[:, 3:] = 1
    labels[5] = 255
    return labels


def test_by_hand():
    maps = torch.zeros(3, 3, 2)
    maps[0, 0, 0], maps[0, 1, 1] = 0.75, 0.25
    maps[1, 2, 0] = 1  # its lower half is void, three quarters of the upper are class 0
    game = metric()
    game.process(None, [sample(maps, halves())])
    values = game.compute_metrics(game.results)
    left, right = game.per_class['left'], game.per_class['right']
    assert (left['pointing'], right['pointing']) == (1, 0)
    assert left['energy'] == pytest.approx(0.75 * 3 / 4)
    assert right['energy'] == pytest.approx(1 / 4)
    assert (left['area'], right['area']) == (15 / 40, 25 / 40)
    assert (left['centre'], right['centre']) == (0, 1)  # row 3, column 4
    assert game.per_class['nowhere']['images'] == 0 and math.isnan(game.per_class['nowhere']['energy'])
    assert values == {
        'pointing': 0.5,
        'centre': 0.5,
        'energy': pytest.approx((0.75 * 3 / 4 + 1 / 4) / 2),
        'area': pytest.approx(0.5),
    }


def test_an_even_map_has_the_energy_of_the_area():
    game = metric()
    game.process(None, [sample(torch.full((3, 3, 2), 1 / 6), halves())])
    values = game.compute_metrics(game.results)
    assert values['energy'] == pytest.approx(values['area'])


def test_means_are_over_images_first_and_classes_then():
    everywhere = torch.zeros(SIZE, dtype=torch.uint8)
    good = torch.zeros(3, 3, 2)
    good[0, 0, 0] = good[1, 0, 0] = 1
    game = metric()
    game.process(None, [sample(good, halves()), sample(good, everywhere), sample(good, everywhere)])
    values = game.compute_metrics(game.results)
    assert (game.per_class['left']['images'], game.per_class['right']['images']) == (3, 1)
    assert values['pointing'] == pytest.approx((3 / 3 + 0) / 2)


def test_instances_are_united():
    mmdet = pytest.importorskip('mmdet.structures.mask')
    masks = np.zeros((3, *SIZE), np.uint8)
    masks[0, :2, :4], masks[1, 2:4, :2], masks[2, 4:, 4:] = 1, 1, 1
    labels = torch.tensor([0, 0, 1])
    maps = torch.zeros(3, 3, 2)
    maps[0, 0, 0] = maps[0, 1, 0] = 0.5
    maps[1, 2, 1] = 1
    truth = InstanceData(labels=labels, masks=mmdet.BitmapMasks(masks, *SIZE), bboxes=torch.zeros(3, 4))
    game = metric()
    game.process(None, [sample(maps, gt_instances=truth)])
    game.compute_metrics(game.results)
    assert game.per_class['left'] == dict(pointing=1, centre=0, energy=0.75, area=12 / 48, images=1)
    assert game.per_class['right'] == dict(pointing=1, centre=0, energy=1, area=8 / 48, images=1)


def test_boxes_where_there_are_no_masks_and_crowds():
    boxes = torch.tensor([[0.0, 0, 4, 4], [4, 2, 8, 6], [0, 0, 1, 1]])
    truth = InstanceData(labels=torch.tensor([0, 1, 2]), bboxes=boxes)
    crowd = InstanceData(labels=torch.tensor([2]), bboxes=boxes[2:])
    maps = torch.zeros(3, 3, 2)
    maps[:, 1, 1] = 1
    game = metric()
    game.process(None, [sample(maps, gt_instances=truth, ignored_instances=crowd)])
    game.compute_metrics(game.results)
    assert game.per_class['left'] == dict(pointing=0, centre=0, energy=0, area=16 / 48, images=1)
    assert game.per_class['right'] == dict(pointing=1, centre=1, energy=1, area=16 / 48, images=1)
    assert game.per_class['nowhere']['images'] == 0


@pytest.mark.parametrize(('tolerance', 'hit'), [(0, False), (4, False), (5, True), (15, True)])
def test_tolerance(tolerance, hit):
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[3, 4] = True
    assert points_at((0, 0), mask, tolerance) is hit
    assert points_at((3, 4), mask, tolerance)


def test_edges_between_pixels():
    """A patch that ends in the middle of a pixel has half of it."""
    mask = torch.tensor([[False, True, True]])
    rows, columns = torch.tensor([0.0, 1]).double(), torch.tensor([0.0, 1.5, 3]).double()
    weights = torch.tensor([[1.0, 0]]).double()
    assert energy_in_mask(weights, mask, torch.ones_like(mask), rows, columns) == pytest.approx(1 / 3)


def test_truth_at_another_size():
    """Attention knows the original image; the label map is half as large."""
    labels = halves()[::2, ::2]
    maps = torch.zeros(3, 3, 2)
    maps[:, :, 1] = 1 / 3
    game = metric()
    game.process(None, [sample(maps, labels)])
    game.compute_metrics(game.results)
    assert game.per_class['right']['energy'] == pytest.approx(1)


def test_what_is_missing_is_said():
    without = sample(torch.ones(3, 3, 2), halves())
    del without['class_attention']
    with pytest.raises(UserError, match='class_attention=dict'):
        metric().process(None, [without])
    with pytest.raises(UserError, match='a.png.*LoadAnnotations'):
        metric().process(None, [sample(torch.ones(3, 3, 2))])
    with pytest.raises(UserError, match='tolerance=-1'):
        PointingGame(-1)
