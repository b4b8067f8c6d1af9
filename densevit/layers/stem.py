"""Convolutional stems: from the image to the first map of tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .activation import gelu_
from .convert import to_nhwc
from .linear import is_plain
from .patch_embed import check_channels

__all__ = ['ConvStem']


class ConvStem(nn.Module):
    """A stack of 3 x 3 convolutions of stride 2 with GELU between them, width doubling up to C.

    With ``depth`` 4, the stem of PatchConvNet (https://arxiv.org/abs/2112.13692, section 3.1) and of XCiT: widths
    C/8, C/4, C/2, C and stride 16. No norm and no bias, as in the official PatchConvNet code.

    Args:
        in_channels: channels of the image.
        embed_dims: C, channels of the map; divisible by 2 ** (depth - 1).
        depth: number of convolutions; the stride is 2 ** depth.

    Raises:
        ValueError: ``embed_dims`` cannot be halved often enough.
    """

    def __init__(self, in_channels: int, embed_dims: int, depth: int = 4) -> None:
        super().__init__()
        if depth < 1 or embed_dims % 2 ** (depth - 1):
            raise ValueError(
                f'a stem of depth {depth} halves embed_dims {depth - 1} times, which {embed_dims} does not allow; '
                f'take a multiple of {2 ** max(depth - 1, 0)} or another stem_depth (at least 1)'
            )
        widths = [in_channels, *(embed_dims // 2 ** (depth - 1 - step) for step in range(depth))]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        )
        self.stride = 2**depth

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, ceil(H / stride), ceil(W / stride), C)."""
        check_channels(image, self.convs[0].in_channels)
        first, *others = self.convs
        # In channels_last these convolutions take half the time, but oneDNN's float32 rounding errors there are larger:
        # those of PatchConvNet's maps would double.
        x = first(image.contiguous())
        gelu = gelu_ if is_plain(*self.convs) else F.gelu
        for conv in others:
            x = conv(gelu(x))  # (B, C / 2^k, H / 2^j, W / 2^j)
        return to_nhwc(x).contiguous()
