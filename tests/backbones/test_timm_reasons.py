"""Reasons are sentences, whatever timm and torch say."""

from __future__ import annotations

import pytest
import torch

from densevit import TimmBackbone
from densevit.backbones.timm_reasons import reason_of


def broadcast() -> Exception:
    """As torch says it."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(4, 9, device='meta') + torch.empty(4, 7, device='meta')
    return caught.value


@pytest.mark.parametrize(('error', 'sentence'), [
    (AssertionError("Input height (96) doesn't match model (224)."), 'it takes images of one size only, the one that'),
    (AssertionError('height (12) must be divisible by window (8)'), 'its attention takes only maps whose'),
    (AssertionError('width 12 must be divisible by grid 8'), 'maps whose sides are multiples of 8'),
    (RuntimeError("shape '[2, 8, -1, 49]' is invalid for input of size 9216"), 'at 96 x 64 pixels shapes do not fit'),
    (broadcast(), 'at 96 x 64 pixels shapes do not fit'),
    (RuntimeError('Tensor.item() cannot be called on meta tensors'), 'its code asks for the values of tensors'),
    (ValueError('the map of stride 2 is (93, 45), and not (96, 48)'), 'stride 2 has 93 x 45 places, and not 96 x 48'),
    (AssertionError(), 'at 96 x 64 pixels a condition in its code does not hold'),
    (RuntimeError('something\n else.'), 'at 96 x 64 pixels: something else'),
], ids=range(9))  # fmt: skip
def test_reasons(error, sentence):
    found = reason_of(error, (96, 64))
    assert sentence in found
    assert not found.endswith('.') and '\n' not in found and '{' not in found


def test_a_backbone_says_it():
    with pytest.raises(ValueError, match='cannot be a backbone: it takes images of one size only'):
        TimmBackbone('visformer_tiny')
