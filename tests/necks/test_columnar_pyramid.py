"""The pyramid from a column equals mmseg's Feature2Pyramid, and also does what that one cannot."""

from __future__ import annotations

import pytest
import torch

from densevit.inference import fold, unfold
from densevit.necks.columnar_pyramid import ColumnarPyramid
from tests.backbones.contract import assert_trains, fill, loss_of

C = 6
# mmseg's names, by the factor
THEIRS = {4: 'upsample_4x', 2: 'upsample_2x', 1: 'identity', 0.5: 'downsample_2x', 0.25: 'downsample_4x'}
SIZES = ((4, 6), (5, 7), (9, 4), (8, 13))


def columns(size: tuple[int, int], number: int, **options) -> list[torch.Tensor]:
    return [torch.randn(2, C, *size, dtype=torch.float64, **options) for _ in range(number)]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('number', [1, 4])
@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('scales', [(4, 2, 1, 0.5), (2, 1, 0.5, 0.25)], ids=str)
def test_equals_feature2pyramid(scales, size, number, training):
    pyramids = pytest.importorskip('mmseg.models.necks.featurepyramid')
    ours = fill(ColumnarPyramid(C, scales=scales)).double().train(training)
    theirs = pyramids.Feature2Pyramid(C, rescales=list(scales), norm_cfg=dict(type='BN')).double().train(training)
    names = {f'fpn{number}': THEIRS[scale] for number, scale in enumerate(scales, start=1)}
    state = {f'{names[name.partition(".")[0]]}.{name.partition(".")[2]}': t for name, t in ours.state_dict().items()}
    theirs.load_state_dict(state)

    inputs = columns(size, number, requires_grad=True)
    found = ours(tuple(inputs))
    expected = theirs(inputs if number == 4 else inputs * 4)
    assert isinstance(found, tuple)
    torch.testing.assert_close(found, expected)
    for m, scale in zip(found, scales):
        assert m.shape == (2, C, int(size[0] * scale), int(size[1] * scale))

    mine = torch.autograd.grad(loss_of(found), inputs, retain_graph=True)
    torch.testing.assert_close(mine, torch.autograd.grad(loss_of(expected), inputs))
    loss_of(found).backward()
    # before a norm over the batch a bias has no effect, so in training its gradient is rounding noise
    assert_trains(ours, {name for name, _ in ours.named_parameters()} - {'fpn1.0.bias'})


@pytest.mark.parametrize('norm', ['BN', 'SyncBN', 'GN'])
@pytest.mark.parametrize('size', [*SIZES, (1, 9)], ids=str)
def test_folded_computes_the_same(size, norm):
    model = fill(ColumnarPyramid(C, dict(type=norm, **(dict(num_groups=2) if norm == 'GN' else {})))).double().eval()
    if norm != 'GN':
        model.fpn1[1].running_mean.normal_()
        model.fpn1[1].running_var.uniform_(0.5, 2)
    for inputs in (columns(size, 1), columns(size, 4)):
        expected = model(inputs)
        with torch.no_grad():
            torch.testing.assert_close(fold(model)(inputs), expected, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(unfold(model)(inputs), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('size', [(1, 9), (9, 1), (1, 1), (3, 2)], ids=str)
@pytest.mark.parametrize('scales', [(4, 2, 1, 0.5), (2, 1, 0.5, 0.25), (1, 0.125)], ids=str)
def test_narrow_maps_shrink_to_one_row(size, scales):
    model = ColumnarPyramid(C, scales=scales).double()
    for m, scale in zip(model(columns(size, 1)), scales):
        assert m.shape[-2:] == tuple(max(1, int(side * scale)) for side in size)
        assert m.isfinite().all()


def test_pooling_takes_the_largest_and_drops_a_rest():
    x = torch.arange(35.0).reshape(1, 1, 5, 7)
    half, quarter = ColumnarPyramid(1, scales=(0.5, 0.25))((x,))
    assert half[0, 0].tolist() == [[8, 10, 12], [22, 24, 26]]
    assert quarter[0, 0].tolist() == [[24]]


def test_four_taps_reach_their_own_level():
    model = fill(ColumnarPyramid(C)).double().eval()
    inputs = columns((5, 7), 4)
    before = model(inputs)
    inputs[2] = inputs[2] + 1
    assert [torch.equal(a, b) for a, b in zip(before, model(inputs))] == [True, True, False, True]


def test_channels_and_norm():
    model = ColumnarPyramid([C] * 4, dict(type='GN', num_groups=2))
    assert model.out_channels == (C,) * 4
    assert isinstance(model.fpn1[1], torch.nn.GroupNorm)
    assert isinstance(ColumnarPyramid(C).fpn1[1], torch.nn.BatchNorm2d)
    assert ColumnarPyramid(C, scales=(2, 1)).out_channels == (C,) * 2
    config = dict(type='BN', requires_grad=True)
    ColumnarPyramid(C, config)
    assert config == dict(type='BN', requires_grad=True)


def test_bad_inputs_and_arguments():
    model = ColumnarPyramid(C)
    for number in (0, 2, 3, 5):
        with pytest.raises(ValueError, match=f'got {number} maps for 4 levels.*out_indices'):
            model([torch.zeros(1, C, 4, 6)] * number)
    with pytest.raises(ValueError, match='a tuple of maps'):
        model(torch.zeros(1, C, 4, 6))
    with pytest.raises(ValueError, match=r'in_channels=\[6, 8\]'):
        ColumnarPyramid([6, 8])
    for wrong in (3, 8, 0, 0.3, -1):
        with pytest.raises(ValueError, match=f'{wrong} is not one of 4, 2, 1'):
            ColumnarPyramid(C, scales=(4, wrong))
    with pytest.raises(TypeError, match='positional'):
        ColumnarPyramid(C, None, (4, 2))
