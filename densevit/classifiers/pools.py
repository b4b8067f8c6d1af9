"""From a backbone and its images to the vectors that a linear head reads, beside the learned aggregation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers import to_nhwc

__all__ = ['AveragePool', 'CarriedClassToken', 'LateClassToken']


class AveragePool(nn.Module):
    """LayerNorm over channels, then the mean over the map: (B, C, H, W) -> (B, 1, C).

    Args:
        embed_dims: C, channels of the map.
        norm_eps: added to the variance in the norm; None for a map that is normed already.
    """

    def __init__(self, embed_dims: int, norm_eps: float | None = 1e-6) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(embed_dims, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(2).transpose(1, 2)).mean(dim=1, keepdim=True)


class CarriedClassToken(nn.Module):
    """The class token that a backbone carries along (CvT), normed: (B, 3, H, W) -> (B, 1, C)."""

    def __init__(self, embed_dims: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dims, eps=norm_eps)

    def forward(self, backbone: nn.Module, images: Tensor) -> Tensor:
        return self.norm(backbone.class_token(images))


class LateClassToken(nn.Module):
    """A class token that joins the tokens of the last stage: PVT's classifier.

    Its position embedding is the first entry of the backbone's last table, which the dense model leaves out.
    """

    def __init__(self, embed_dims: int, norm_eps: float) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        self.norm = nn.LayerNorm(embed_dims, eps=norm_eps)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, backbone: nn.Module, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, 1, C)."""
        last = backbone.num_stages - 1
        token = (self.cls_token + backbone.class_position).expand(len(images), -1, -1)  # (B, 1, C)
        x = to_nhwc(images)
        for index in range(last):
            x = backbone.forward_stage(x, index)
        patches = backbone.embed(x, last)  # (B, H, W, C)
        size = (patches.shape[1], patches.shape[2])
        # without spatial reduction a block does not ask where a token stands: a map of one row will do
        x = torch.cat([token, patches.flatten(1, 2)], dim=1)[:, None]  # (B, 1, 1 + L, C)
        for block in backbone.blocks(last):
            x = backbone.run(block, x, size)
        return self.norm(x[:, 0, :1])
