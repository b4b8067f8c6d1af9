"""The loss by rectangles against torch's on resized logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from densevit.layers import resized_cross_entropy as module
from densevit.layers.resized_cross_entropy import resized_cross_entropy

SIZES = [((13, 17), (50, 61)), ((33, 128), (33, 128)), ((9, 20), (9, 31)), ((20, 9), (7, 33)), ((1, 9), (4, 1))]


@pytest.fixture(params=[1, 1000, 10**9], ids=['pixels', 'small blocks', 'one block'])
def _block_size(request, monkeypatch):
    monkeypatch.setattr(module, '_CPU_BLOCK', request.param)


def case(batch, before, after, dtype=torch.float64, num_classes=11):
    logits = (3 * torch.randn(batch, num_classes, *before, dtype=dtype)).requires_grad_()
    label = torch.randint(0, num_classes, (batch, *after))
    label[torch.rand(label.shape) < 0.2] = 255
    return logits, label


def plain(logits, label, align_corners=False, class_weight=None):
    pixels = F.interpolate(logits, label.shape[1:], mode='bilinear', align_corners=align_corners)
    total = F.cross_entropy(pixels, label, class_weight, ignore_index=255, reduction='sum')
    return total, ((pixels.argmax(1) == label) & (label != 255)).sum()


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('before, after', SIZES)
def test_equals_the_plain_loss(before, after, align_corners, weighted, batch):
    logits, label = case(batch, before, after)
    class_weight = torch.rand(11, dtype=torch.float64) if weighted else None
    found = resized_cross_entropy(
        logits, label, ignore_index=255, class_weight=class_weight, align_corners=align_corners
    )
    total, correct = plain(logits, label, align_corners, class_weight)
    torch.testing.assert_close(found.total, total, rtol=1e-12, atol=1e-12)
    assert found.correct == correct
    weights = torch.ones(11, dtype=torch.float64) if class_weight is None else class_weight
    torch.testing.assert_close(found.weight, weights[label[label != 255]].sum())
    gradients = (torch.autograd.grad(3 * each, logits)[0] for each in (found.total, total))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures('_block_size')
def test_any_blocks():
    logits, label = case(2, (5, 7), (17, 22))
    found, (total, correct) = resized_cross_entropy(logits, label, ignore_index=255), plain(logits, label)
    torch.testing.assert_close(found.total, total, rtol=1e-12, atol=0)
    assert found.correct == correct
    gradients = (torch.autograd.grad(each, logits)[0] for each in (found.total, total))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_float32_is_as_exact_as_torchs():
    errors = {'ours': [], 'plain': []}
    for seed in range(5):
        torch.manual_seed(seed)
        logits, label = case(2, (13, 17), (50, 61), torch.float32, 60)
        double = logits.detach().double().requires_grad_()
        (exact,) = torch.autograd.grad(plain(double, label)[0], double)
        for name, total in (
            ('ours', resized_cross_entropy(logits, label, ignore_index=255).total),
            ('plain', plain(logits, label)[0]),
        ):
            errors[name].append((torch.autograd.grad(total, logits)[0] - exact).abs().max().item())
    assert sorted(errors['ours'])[2] <= 1.5 * sorted(errors['plain'])[2]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_calculated_with_in_float32(dtype):
    logits, label = case(2, (5, 7), (17, 22), dtype)
    single = logits.detach().float().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        found = resized_cross_entropy(logits, label, ignore_index=255)
    total, correct = plain(single, label)
    torch.testing.assert_close(found.total, total)
    assert found.total.dtype == torch.float32 and found.correct == correct
    # as with a scaled loss: what is too small for half precision is scaled before it is rounded
    (gradient,) = torch.autograd.grad(found.total * 1e-4 * 2.0**16, logits)
    (expected,) = torch.autograd.grad(total * 1e-4 * 2.0**16, single)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, expected.to(dtype), rtol=0.01, atol=1e-4)


def test_nothing_is_kept_but_a_gradient_of_the_logits_size():
    logits, label = case(2, (5, 7), (170, 220))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        resized_cross_entropy(logits, label, ignore_index=255)
    assert [each.shape for each in kept] == [logits.shape]


def test_logits_are_not_changed():
    for after in ((5, 7), (10, 7), (10, 14)):
        logits, label = case(2, (5, 7), after)
        before = logits.detach().clone()
        resized_cross_entropy(logits, label, ignore_index=255)
        assert torch.equal(logits, before)


def test_without_gradient_and_with_all_ignored():
    logits, label = case(2, (5, 7), (17, 22))
    with torch.no_grad():
        found = resized_cross_entropy(logits, label, ignore_index=255)
    assert not found.total.requires_grad
    found = resized_cross_entropy(logits, torch.full_like(label, 255), ignore_index=255)
    assert found.total == 0 == found.correct == found.weight
    (gradient,) = torch.autograd.grad(found.total, logits)
    assert not gradient.any()


@pytest.mark.parametrize('wrong', [-1, 11, 254])
def test_labels_outside_the_classes(wrong):
    logits, label = case(2, (5, 7), (17, 22))
    label[1, 2, 3] = wrong
    with pytest.raises(ValueError, match=f'label contains {wrong}, but there are 11 classes'):
        resized_cross_entropy(logits, label, ignore_index=255)
    assert resized_cross_entropy(logits, label.clamp(0, 10), ignore_index=-100).total.isfinite()
