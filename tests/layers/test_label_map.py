"""Label maps by blocks against the largest logit of the whole map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from densevit.layers import interpolation
from densevit.layers import label_map as module
from densevit.layers.interpolation import Axis, Span, interpolated_axis, rectangles
from densevit.layers.label_map import CroppedMap, MeanOfWindows, ResizedMap, StoredMap, label_map


@pytest.fixture(params=[60, 700, 10**9], ids=['few pixels', 'small blocks', 'one block'])
def _block_size(request, monkeypatch):
    monkeypatch.setattr(module, '_CPU_BLOCK', request.param)


def regions(height: int, width: int, num_classes: int = 9) -> torch.Tensor:
    """Logits with large areas of one class and noise, as a trained head's."""
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    labels = (rows * 2 // height + 3 * (cols * 3 // width)) % num_classes
    logits = torch.randn(num_classes, height, width)
    return logits.scatter_add(0, labels[None], torch.full((1, height, width), 7.0))


LOGITS = {'noise': lambda *size: torch.randn(9, *size), 'regions': regions}


def chains(logits: torch.Tensor) -> dict[str, module.LogitMap]:
    stored = StoredMap(logits)
    resized = ResizedMap(stored, (47, 66), False)
    windows = [
        (ResizedMap(StoredMap(logits.roll(shift, 1)), (29, 40), False), row, col)
        for shift, (row, col) in enumerate([(0, 0), (0, 20), (0, 26), (18, 0), (18, 20), (18, 26)])
    ]
    return {
        'stored': stored,
        'larger': resized,
        'corners': ResizedMap(stored, (47, 66), True),
        'smaller': ResizedMap(stored, (5, 7), False),
        'as large': ResizedMap(resized, (47, 66), False),
        'wider only': ResizedMap(resized, (47, 90), False),
        'higher only': ResizedMap(resized, (90, 66), True),
        'twice': ResizedMap(resized, (83, 91), False),
        'cropped': ResizedMap(CroppedMap(resized, Span(2, 40), Span(0, 61)), (83, 91), False),
        'upside down': ResizedMap(CroppedMap(resized, Span(2, 40), Span(5, 66), 'vertical'), (83, 91), False),
        'flipped': ResizedMap(CroppedMap(resized, Span(2, 40), Span(0, 61), 'horizontal'), (83, 91), False),
        'windows': ResizedMap(MeanOfWindows(windows, (47, 66)), (83, 91), False),
    }


@pytest.mark.usefixtures('_block_size')
@pytest.mark.parametrize('logits', LOGITS.values(), ids=LOGITS)
@pytest.mark.parametrize('chain', chains(torch.zeros(9, 3, 3)))
def test_equals_the_largest_of_the_whole_map(logits, chain):
    logits = chains(logits(12, 17))[chain]
    whole = logits.whole()
    assert whole.shape == (1, 9, *logits.size)
    found = label_map(logits)
    assert found.dtype == torch.int64
    differ = found != whole[0].argmax(0)
    best, second = whole[0].topk(2, dim=0).values
    assert not differ.any() or (best - second)[differ].max() < 1e-5


@pytest.mark.parametrize('chain', chains(torch.zeros(9, 3, 3)))
def test_blocks_and_bounds(chain):
    logits = chains(torch.randn(9, 12, 17, dtype=torch.float64))[chain]
    whole = logits.whole()[0].permute(1, 0, 2)
    channels = torch.tensor([7, 0, 3])
    height, width = logits.size
    for rows, cols in rectangles(Span(0, height), Span(0, width), 97):
        expected = whole[slice(*rows), :, slice(*cols)]
        torch.testing.assert_close(logits.block(rows, cols), expected, rtol=0, atol=1e-12)
        some = logits.block(rows, cols, channels)
        torch.testing.assert_close(some, expected[:, channels], rtol=0, atol=1e-12)
        lower, upper = logits.bounds(rows, cols)
        assert (lower <= expected.amin((0, 2)) + 1e-12).all() and (upper >= expected.amax((0, 2)) - 1e-12).all()
        for all_channels, part in zip((lower, upper), logits.bounds(rows, cols, channels)):
            assert torch.equal(part, all_channels[channels])


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size', [(133, 95), (33, 128), (150, 20)])
def test_blocks_round_as_torch_does(size, align_corners):
    """Where torch's kernels of this machine add the lower neighbour to the upper one, in one operation."""
    logits = torch.randn(9, 23, 31)
    resized = ResizedMap(StoredMap(logits), size, align_corners)
    found = resized.block(Span(0, size[0]), Span(0, size[1])).permute(1, 0, 2)
    expected = F.interpolate(logits[None], size, mode='bilinear', align_corners=align_corners)[0]
    exact = F.interpolate(logits.double()[None], size, mode='bilinear', align_corners=align_corners)[0]
    assert (found - exact).abs().max() <= 1.5 * (expected - exact).abs().max()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_other_devices_interpolate_alike():
    axis = Axis(13, 40, False, torch.float32, torch.device('cpu'))
    span = Span(3, 31)
    below = axis.below(span)
    x = torch.randn(below.size, 5, below.size)
    torch.testing.assert_close(axis._gathered(x, span, 0), axis.rows(x, span))
    torch.testing.assert_close(axis._gathered(x, span, 2), axis.cols(x, span))


@pytest.mark.parametrize('chain', chains(torch.zeros(9, 3, 3)))
def test_the_way_of_other_devices(chain, monkeypatch):
    for each in (module, interpolation):
        monkeypatch.setattr(each, 'on_cpu', lambda x: False)
    monkeypatch.setattr(module, '_GPU_BLOCK', 5000)
    monkeypatch.setattr(StoredMap, 'bounds', None)  # would wait for the device
    logits = chains(torch.randn(9, 12, 17))[chain]
    assert torch.equal(label_map(logits), logits.whole()[0].argmax(0))


def test_few_classes_are_computed_where_few_can_win(monkeypatch):
    computed = []
    block = ResizedMap.block
    monkeypatch.setattr(ResizedMap, 'block', lambda *args: computed.append(block(*args)) or computed[-1])
    monkeypatch.setattr(module, '_CPU_BLOCK', 2000)
    label_map(ResizedMap(StoredMap(torch.randn(9, 48, 60)), (192, 240), False))
    assert sum(each.numel() for each in computed) > 0.9 * 9 * 192 * 240
    computed.clear()
    label_map(ResizedMap(StoredMap(regions(48, 60)), (192, 240), False))  # 7 is far above the noise
    assert sum(each.numel() for each in computed) < 0.5 * 9 * 192 * 240


def test_ties_and_nan_take_torchs_choice():
    logits = torch.randn(4, 6, 7)
    logits[3, :3] = logits[1, :3] = 9
    logits[:, 5] = 0
    assert torch.equal(label_map(StoredMap(logits)), logits.argmax(0))
    assert label_map(StoredMap(torch.full((4, 6, 7), torch.nan))).shape == (6, 7)


def test_infinite_logits_stay_where_they_are():
    logits = regions(12, 17)
    expected = label_map(ResizedMap(StoredMap(logits), (47, 66), False))
    logits[8] = -torch.inf
    masked = label_map(ResizedMap(StoredMap(logits), (47, 66), False))
    assert torch.equal(masked[expected != 8], expected[expected != 8]) and not (masked == 8).any()
    logits[2, 3, 4] = torch.inf
    found = label_map(ResizedMap(StoredMap(logits), (47, 66), False))
    changed = (found != masked).nonzero()
    assert (found[changed.unbind(1)] == 2).all() and len(changed) > 10
    assert (changed.amin(0) >= torch.tensor([8, 12])).all() and (changed.amax(0) <= torch.tensor([19, 20])).all()


def test_works_outside_and_inside_of_inference_mode_and_autocast():
    logits = torch.randn(9, 13, 18, requires_grad=True)
    interpolated_axis.cache_clear()
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        first = label_map(ResizedMap(StoredMap(logits), (47, 66), False))
    second = label_map(ResizedMap(StoredMap(logits), (47, 66), False))
    expected = F.interpolate(logits[None], (47, 66), mode='bilinear')[0].argmax(0)
    assert torch.equal(first, expected) and torch.equal(second, expected) and not second.requires_grad


def test_rectangles_cover_all_once():
    seen = torch.zeros(33, 128)
    for rows, cols in rectangles(Span(0, 33), Span(0, 128), 100):
        seen[slice(*rows), slice(*cols)] += 1
        assert 0 < rows.size * cols.size <= 100
    assert (seen == 1).all()
