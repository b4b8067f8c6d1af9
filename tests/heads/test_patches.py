"""Patches, their pixels, and the truth on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from densevit.heads.patches import interpolation, overlap, patch_edges, patch_truth, valid_box, valid_patches


@pytest.mark.parametrize(('size', 'count', 'stride', 'edges'), [
    (32, 4, 8, [0, 8, 16, 24, 32]),
    (29, 4, 8, [0, 8, 16, 24, 29]),  # a backbone that pads the remainder
    (39, 4, 8, [0, 8, 16, 24, 39]),  # one that drops it
    (30, 3, None, [0, 10, 20, 30]),
    (30, 3, 32, [0, 10, 20, 30]),  # not the stride of this map
    (33, 2, 8, [0, 16.5, 33]),
    (5, 1, 8, [0, 5]),
])  # fmt: skip
def test_patch_edges(size, count, stride, edges):
    assert patch_edges(size, count, stride).tolist() == edges


def test_overlap_counts_parts_of_pixels():
    found = overlap(torch.tensor([0, 1.5, 4.0]).double(), 5)
    assert found.tolist() == [[1, 0.5, 0, 0, 0], [0, 0.5, 1, 1, 0]]


@pytest.mark.parametrize(('size', 'count'), [(24, 3), (7, 7), (5, 1), (6, 4)])
def test_interpolation_is_torchs(size, count):
    values = torch.rand(count, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(values[None, None], size, mode='linear', align_corners=False)[0, 0]
    torch.testing.assert_close(interpolation(patch_edges(size, count), size) @ values, expected)


def test_valid_patches():
    edges = patch_edges(64, 4, 16)
    assert valid_patches(edges, 0, 40).tolist() == [True, True, True, False]
    assert valid_patches(edges, 0, 39).tolist() == [True, True, False, False]
    assert valid_patches(edges, 20, 64).tolist() == [False, True, True, True]
    assert valid_patches(edges, 0, 5).tolist() == [True, False, False, False]  # none by half


def test_valid_box():
    assert valid_box(dict(img_shape=(50, 60, 3)), (64, 96)) == (0, 50, 0, 60)
    assert valid_box(dict(img_shape=(50, 60), img_padding_size=(4, 32, 0, 14)), (64, 96)) == (0, 50, 4, 64)
    assert valid_box({}, (64, 96)) == (0, 64, 0, 96)


EDGES = torch.tensor([0, 4, 7.0]).double(), torch.tensor([0, 5, 10.0]).double()


def test_shares_of_a_label_map():
    labels = torch.full((1, 7, 10), 255)
    labels[0, :4, :5] = 1
    labels[0, 0, 0] = 0
    labels[0, 4:, 5:8] = 2
    labels[0, 6, 9] = 77  # nobody's
    shares, unknown = patch_truth(BaseDataElement(gt_sem_seg=PixelData(data=labels)), *EDGES, 3)
    assert not unknown.any()
    expected = torch.zeros(3, 2, 2)
    expected[0, 0, 0], expected[1, 0, 0], expected[2, 1, 1] = 1 / 20, 19 / 20, 9 / 15
    torch.testing.assert_close(shares, expected)


def test_shares_of_masks_are_of_their_union():
    structures = pytest.importorskip('mmdet.structures.mask')
    masks = np.zeros((3, 7, 10), np.uint8)
    masks[0, :2, :5], masks[1, :3, :5], masks[2, 4:, 5:] = 1, 1, 1
    truth = InstanceData(labels=torch.tensor([1, 1, 0]), masks=structures.BitmapMasks(masks, 7, 10))
    shares, _ = patch_truth(BaseDataElement(gt_instances=truth), *EDGES, 2)
    expected = torch.zeros(2, 2, 2)
    expected[1, 0, 0], expected[0, 1, 1] = 15 / 20, 1
    torch.testing.assert_close(shares, expected)


def test_masks_smaller_than_the_batch():
    structures = pytest.importorskip('mmdet.structures.mask')
    truth = InstanceData(labels=torch.tensor([0]), masks=structures.BitmapMasks(np.ones((1, 4, 6), np.uint8), 4, 6))
    shares, _ = patch_truth(BaseDataElement(gt_instances=truth), *EDGES, 1)
    torch.testing.assert_close(shares[0], torch.tensor([[1, 0.2], [0, 0]]))


def test_shares_of_boxes_and_crowds():
    truth = InstanceData(labels=torch.tensor([0, 0]), bboxes=torch.tensor([[0.0, 0, 5, 2], [2.5, 4, 10, 7]]))
    crowd = InstanceData(labels=torch.tensor([1]), bboxes=torch.tensor([[6.0, 0, 7, 1]]))
    shares, unknown = patch_truth(BaseDataElement(gt_instances=truth, ignored_instances=crowd), *EDGES, 2)
    torch.testing.assert_close(shares[0], torch.tensor([[0.5, 0], [0.5, 1]]))
    assert unknown.nonzero().tolist() == [[1, 0, 1]]
