from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from densevit.compat import ops

pytest.importorskip('torchvision')
mmcv_ops = pytest.importorskip('mmcv.ops')


@pytest.fixture(scope='module')
def reference(shared_facts: Path) -> dict[str, Tensor]:
    """Inputs and results of the compiled operators of onedl-mmcv 2.3.6 on the CPU."""
    with np.load(shared_facts / 'mmcv_ops_reference.npz') as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture
def boxes() -> Tensor:
    """(50, 4) boxes in a frame of 60 x 40 pixels."""
    corners = torch.rand(50, 2, 2) * torch.tensor([60.0, 40.0])
    return torch.cat((corners.amin(dim=1), corners.amax(dim=1)), dim=1)


@pytest.mark.parametrize(('offset', 'threshold'), list(product((0, 1), (0.3, 0.5, 0.7))))
def test_nms_keeps_the_reference_indices(reference, offset, threshold):
    _, kept = mmcv_ops.nms(reference['boxes'], reference['scores'], threshold, offset=offset)
    assert kept.tolist() == reference[f'nms_offset{offset}_iou{threshold}'].tolist()


def test_batched_nms_keeps_the_reference_indices(reference):
    _, kept = mmcv_ops.batched_nms(
        reference['boxes'], reference['scores'], reference['labels'], dict(type='nms', iou_threshold=0.5)
    )
    assert kept.tolist() == reference['batched_nms_iou0.5'].tolist()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize(('aligned', 'sampling', 'scale'), list(product((0, 1), (0, 2), (0.25, 0.5))))
def test_roi_align_equals_the_reference(reference, aligned, sampling, scale, dtype):
    case = f'aligned{aligned}_sampling{sampling}_scale{scale}'
    features = reference['features'].to(dtype, copy=True).requires_grad_()
    out = mmcv_ops.roi_align(features, reference['rois'].to(dtype), (7, 5), scale, sampling, 'avg', bool(aligned))
    (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)).sum().backward()
    for ours, name in ((out, 'roi_align'), (features.grad, 'roi_align_grad')):
        theirs = reference[f'{name}_{case}'].to(dtype)
        torch.testing.assert_close(ours.detach(), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_nms_in_other_dtypes(boxes, dtype):
    boxes, scores = boxes.to(dtype), torch.linspace(1, 0, 50).to(dtype)
    # 16 bits are computed as if the same rounded numbers had come in 32.
    expected = ops.nms(boxes.float(), scores.float(), 0.5, 0)
    assert 0 < len(expected) < 50
    assert ops.nms(boxes, scores, 0.5, 0).tolist() == expected.tolist()
    assert ops.nms(boxes, scores.float(), 0.5, 0).tolist() == expected.tolist()


def test_nms_of_no_box():
    kept = ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5, 1)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_roi_align_in_16_bits(boxes, dtype):
    features = torch.randn(1, 3, 20, 30).to(dtype).requires_grad_()
    rois = torch.cat((torch.zeros(50, 1), boxes), dim=1).to(dtype)
    out = mmcv_ops.roi_align(features, rois, (3, 2), 0.5)
    out.sum().backward()
    exact = features.detach().float().requires_grad_()
    expected = mmcv_ops.roi_align(exact, rois.float(), (3, 2), 0.5)
    expected.sum().backward()
    assert out.dtype == features.grad.dtype == dtype
    assert torch.equal(out, expected.to(dtype))
    assert torch.equal(features.grad, exact.grad.to(dtype))


def test_roi_align_gradient_is_that_of_its_forward(boxes):
    features = torch.randn(1, 2, 5, 7, dtype=torch.float64, requires_grad=True)
    rois = torch.cat((torch.zeros(4, 1), boxes[:4]), dim=1).double()
    assert torch.autograd.gradcheck(lambda x: mmcv_ops.roi_align(x, rois, (2, 3), 0.125), features)


def test_roi_align_of_no_roi():
    features = torch.randn(2, 3, 6, 9, requires_grad=True)
    out = mmcv_ops.roi_align(features, torch.zeros(0, 5), (7, 5))
    out.sum().backward()
    assert out.shape == (0, 3, 7, 5)
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_maximum_pooling_is_refused():
    maps, rois = torch.zeros(1, 2, 6, 9), torch.zeros(1, 5)
    out, no_max = torch.zeros(1, 2, 3, 2), torch.zeros(0)
    sizes = dict(aligned_height=3, aligned_width=2, spatial_scale=1.0, sampling_ratio=0, aligned=True)
    with pytest.raises(NotImplementedError, match="'roi_align' with pool_mode='max'"):
        ops.roi_align_forward(maps, rois, out, no_max, no_max, pool_mode=0, **sizes)
    with pytest.raises(NotImplementedError, match="'roi_align' with pool_mode='max'"):
        ops.roi_align_backward(out, rois, no_max, no_max, maps, pool_mode=0, **sizes)


@pytest.mark.usefixtures('uncompiled_mmcv')
def test_other_operators_say_what_to_install():
    with pytest.raises(NotImplementedError, match="'softnms' .*pip install .*--no-binary onedl-mmcv"):
        mmcv_ops.soft_nms(torch.tensor([[0.0, 0.0, 4.0, 3.0]]), torch.ones(1), 0.5)


def test_private_names_are_not_operators():
    assert ops.softnms.__name__ == 'softnms'
    for name in ('__wrapped__', '__path__', '_C'):
        with pytest.raises(AttributeError, match=name):
            getattr(ops, name)
