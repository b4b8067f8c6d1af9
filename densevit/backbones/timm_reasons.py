"""Why a model of timm cannot be a backbone, in words: what its code says is for who wrote it."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ['reason_of']

ONE_SIZE = 'it takes images of one size only, the one that it is built for'
# What messages of timm, torch and ours have in common, and what they mean; the first that fits. In the sentences stand
# {size}, that of the image, and the groups of the pattern.
_MEANINGS = (
    (r"Input (?:height|width) \(\d+\) doesn't match model", ONE_SIZE),
    (
        r'must be divisible by (?:window|grid) \(?(\d+)\)?',
        'its attention takes only maps whose sides are multiples of {1}',
    ),
    (
        r'broadcast|is invalid for input of size|must match the size|cannot be multiplied',
        f'{ONE_SIZE}: at {{size}} pixels shapes do not fit',
    ),
    (
        r'cannot be called on meta tensors',
        'its code asks for the values of tensors, so that it cannot be looked at without memory for its weights',
    ),
    (
        r'the map of stride (\d+) is \((\d+), (\d+)\), and not \((\d+), (\d+)\)',
        'at {size} pixels its map of stride {1} has {2} x {3} places, and not {4} x {5}',
    ),
    (r'^$', 'at {size} pixels a condition in its code does not hold'),
)


def reason_of(error: Exception, size: Sequence[int]) -> str:
    """The end of a sentence that begins "it cannot be a backbone:", without a full stop.

    Args:
        error: what the model's forward pass, or a look at its maps, raised.
        size: height and width of the image, in pixels, as the model got it.
    """
    shown = f'{size[0]} x {size[1]}'
    message = ' '.join(str(error).split())
    for pattern, sentence in _MEANINGS:
        if found := re.search(pattern, message):
            return sentence.format(found[0], *found.groups(), size=shown)
    return f'at {shown} pixels: {message.rstrip(".")}'
