"""What Swin does in classification only.

Official code: https://github.com/microsoft/Swin-Transformer (commit f82860b), `models/swin_transformer.py` and
`models/swin_transformer_v2.py`. Its resolution is fixed when a model is built; here the same rules look at each image.
"""

from __future__ import annotations

from torch import nn

from ..backbones.swin import SwinTransformer, fixed_windows

__all__ = ['follow_classifier_rules', 'shrinking_windows']


def follow_classifier_rules(backbone: SwinTransformer) -> None:
    """Turn a dense Swin of either version into the trunk of its classifier, in place.

    The norms of the outputs go: the classifier's only norm is that of its pool. Windows shrink to small maps, see
    :func:`shrinking_windows`; then the first version takes the middle of its bias table, and the second computes the
    bias for the smaller window.
    """
    for index in backbone.out_indices:
        setattr(backbone, f'norm{index}', nn.Identity())
    backbone.window_rule = shrinking_windows


def shrinking_windows(size: tuple[int, int], window_size: int, block_index: int) -> tuple[int, int]:
    """Side and shift of the windows: where a side of the map is no larger than the window, that side, and no shift.

    At 224 x 224 with window 7 this is the last stage, whose shift it takes away. The smaller side of the map decides
    for both, as windows are square.

    Args:
        size: H and W of the map, in tokens.
        window_size: the model's window side, in tokens.
        block_index: index of the block in its stage.
    """
    if min(size) <= window_size:
        return min(size), 0
    return fixed_windows(size, window_size, block_index)
