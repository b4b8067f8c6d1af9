"""What the network gets of an image, and where a pixel of the image is in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from densevit.engine.explain_model import _classifier_view
from densevit.errors import UserError


def photo(height: int, width: int) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize('size', [(300, 411), (500, 240)])
def test_the_input_is_that_of_the_official_evaluation(size):
    image = photo(*size)
    official = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    view = _classifier_view(224, whole=False)(image)
    assert torch.equal(view.image, official(Image.fromarray(image)))
    assert view.picture.shape == (448, 448, 3)


@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize(('size', 'point'), [((300, 410), (120, 230)), ((500, 240), (270, 90))])
def test_a_pixel_is_found_again(size, point, whole):
    image = np.zeros((*size, 3), np.uint8)
    image[point[0] - 4 : point[0] + 5, point[1] - 4 : point[1] + 5] = 255
    view = _classifier_view(96, whole=whole)(image)
    expected = view.pixel(point)
    brightness = view.image.sum(0) - view.image.sum(0).min()
    for axis, found in enumerate(expected):
        profile = brightness.sum(1 - axis)
        center = (profile * (torch.arange(len(profile)) + 0.5)).sum() / profile.sum()
        assert center.item() == pytest.approx(found, abs=0.6)
    # and in the picture, larger
    height, width = view.picture.shape[:2]
    assert (height, width) == tuple(side * view.zoom for side in view.image.shape[1:])
    lit = np.argwhere(view.picture[..., 0] > 128).mean(0) + 0.5
    np.testing.assert_allclose(lit, [each * view.zoom for each in expected], atol=0.6 * view.zoom)


def test_a_pixel_outside_of_the_crop():
    view = _classifier_view(96, whole=False)(photo(300, 410))
    view.pixel((150, 205))
    with pytest.raises(UserError, match=r'--query 3,150 lies outside .* x from 7\d to 3\d\d, y from 1\d to 28\d'):
        view.pixel((150, 3))
