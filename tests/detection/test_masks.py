"""Lazy masks against mmdetection's pasting, and as the tensor that they stand for."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip('mmdet')

from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmengine.structures import InstanceData

from densevit.detection.masks import PastedMasks

SIZE = (61, 94)


def small_maps(count: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    maps = torch.rand(count, 7, 7, generator=generator)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor((80.0, 50.0))
    boxes = torch.cat((corner, corner + torch.rand(count, 2, generator=generator) * 40), dim=1)
    boxes = torch.minimum(boxes, torch.tensor((94.0, 61.0, 94.0, 61.0)))
    if count:
        boxes[0] = torch.tensor((0.0, 0.0, 94.0, 61.0))
        boxes[-1] = torch.tensor((20.0, 30.0, 20.0, 40.0))  # no width
    return maps, boxes


def pasted(maps: Tensor, boxes: Tensor) -> Tensor:
    """As mmdetection does on the CPU: one by one."""
    masks = torch.zeros(len(maps), *SIZE, dtype=torch.bool)
    for index in range(len(maps)):
        some = slice(index, index + 1)
        part, (rows, columns) = _do_paste_mask(maps[some, None], boxes[some], *SIZE, skip_empty=True)
        masks[index, rows, columns] = part[0] >= 0.5
    return masks


@pytest.fixture
def masks() -> PastedMasks:
    return PastedMasks(*small_maps(), SIZE, 0.5)


@pytest.fixture
def expected() -> Tensor:
    return pasted(*small_maps())


def test_pixels_and_codes_are_mmdetections(masks, expected):
    assert 0.05 < expected.float().mean() < 0.5
    codes = encode_mask_results(expected.numpy())
    assert [each['counts'] for each in masks.encode()] == [each['counts'] for each in codes]
    assert masks._state._dense is None, 'encode has computed all pixels'
    assert torch.equal(masks, expected)
    assert [each['counts'] for each in masks.encode()] == [each['counts'] for each in codes]


def test_it_is_a_tensor(masks, expected):
    assert isinstance(masks, Tensor)
    assert masks.shape == expected.shape and masks.dtype == torch.bool and len(masks) == 9
    assert torch.equal(masks[2], expected[2])
    assert torch.equal(masks[expected.flatten(1).any(1)], expected[expected.flatten(1).any(1)])
    assert torch.equal(masks.sum((1, 2)), expected.sum((1, 2)))
    assert torch.equal(torch.cat((masks, ~masks)), torch.cat((expected, ~expected)))
    assert np.array_equal(masks.detach().cpu().numpy(), expected.numpy())
    assert np.array_equal(np.asarray(masks), expected.numpy())
    assert all(torch.equal(one, other) for one, other in zip(masks, expected))
    assert masks.tolist() == expected.tolist()
    assert repr(masks) == repr(expected)


@pytest.mark.parametrize('inference', [False, True])
def test_changed_pixels_stay_changed(expected, inference):
    with torch.inference_mode(inference):
        masks = PastedMasks(*small_maps(), SIZE, 0.5)
        masks[3] = True
        expected[3] = True
        alias = masks.detach()
        assert torch.equal(alias, expected)
        codes = [each['counts'] for each in encode_mask_results(expected.numpy())]
        for each in (masks, alias, copy.deepcopy(masks), pickle.loads(pickle.dumps(masks))):
            assert [code['counts'] for code in each.encode()] == codes
            assert torch.equal(each, expected)


def test_copies_are_small_and_independent(masks, expected):
    assert len(pickle.dumps(masks)) < expected.numel() / 4
    for other in (copy.deepcopy(masks), pickle.loads(pickle.dumps(masks)), masks.clone()):
        other[0] = False
        assert not other[0].any()
    assert torch.equal(masks, expected)


def test_in_a_data_sample(masks, expected):
    sample = DetDataSample(pred_instances=InstanceData(masks=masks, scores=torch.arange(9.0)))
    chosen = sample.cpu().pred_instances
    chosen = chosen[chosen.scores > 3]
    assert torch.equal(chosen.masks, expected[4:])
    assert isinstance(sample.to_dict()['pred_instances']['masks'], PastedMasks)


def test_no_mask():
    masks = PastedMasks(*small_maps(0), SIZE, 0.5)
    assert masks.encode() == []
    assert masks.numpy().shape == (0, *SIZE)
