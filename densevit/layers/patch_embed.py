"""Patch embedding: a strided convolution and a norm, from an image to tokens or from tokens to fewer tokens."""

from __future__ import annotations

from torch import Tensor, nn

from .conv import strided_conv

__all__ = ['PatchEmbed', 'check_channels']


def check_channels(x: Tensor, in_channels: int) -> None:
    """Raise a ValueError unless ``x`` is (B, in_channels, H, W)."""
    if x.ndim != 4 or x.shape[1] != in_channels:
        raise ValueError(
            f'images of shape {tuple(x.shape)} do not fit a model that is built for (B, {in_channels}, H, W); '
            'change the images, or build the model with in_channels='
        )


class PatchEmbed(nn.Module):
    """Convolution, then LayerNorm (eps 1e-5) over the channels.

    With the stride as the kernel size, patches stand side by side (PVT, Swin); with a larger kernel and a padding they
    overlap (PVT v2, CvT). A remainder of H or W that fills no kernel is dropped; pad before if it shall not be.

    Args:
        in_channels: channels of the image, or of the map before.
        embed_dims: C, channels of the tokens.
        kernel_size: side of a patch, in pixels or tokens of the map before.
        stride: distance of two patches; the side of a patch by default.
        padding: zeros around the map, in pixels or tokens.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, *, kernel_size: int, stride: int | None = None, padding: int = 0
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, kernel_size, stride or kernel_size, padding)
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, H', W', C), H' = floor((H + 2 * padding - kernel_size) / stride) + 1, W' likewise."""
        check_channels(x, self.proj.in_channels)
        return self.norm(strided_conv(self.proj, x))
