"""The peer of PatchConvNet in benchmarks computes the same function."""

from __future__ import annotations

import pytest
import torch

from densevit.backbones.patchconvnet import PatchConvNet
from densevit.benchmark.plain_patchconvnet import plain_patchconvnet
from tests.backbones.contract import fill, gradients, images, loss_of

ARCH = dict(embed_dims=16, depth=4)


@pytest.mark.parametrize('size', [(33, 128), (67, 53), (1, 7)], ids=str)
@pytest.mark.parametrize('batch', [1, 2])
def test_equals_the_backbone(batch, size):
    ours = fill(PatchConvNet(ARCH, out_indices=(0, 2))).double()
    plain = plain_patchconvnet(ARCH, out_indices=(0, -2)).double()
    plain.load_state_dict(ours.state_dict())
    assert list(plain.state_dict()) == list(ours.state_dict())
    x = images(batch, 3, *size).double()
    maps = [each(x) for each in (ours, plain)]
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-12, atol=1e-12)
    assert all(m.is_contiguous() for m in maps[1])
    for each in maps:
        loss_of(each).backward()
    expected = gradients(ours)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradient.view_as(expected[name]), expected[name], rtol=1e-9, atol=1e-12)


def test_the_state_that_is_loaded_stays_as_it_is():
    state = fill(PatchConvNet(ARCH)).state_dict()
    plain_patchconvnet(ARCH).load_state_dict(state)
    assert state['blocks.0.conv_in.weight'].shape == (16, 16)
