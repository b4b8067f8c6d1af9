"""PatchConvNet's trunk written as the official code is: the peer of :class:`densevit.PatchConvNet` in benchmarks.

No package that is in use has the family, so this stands for what a user would otherwise run. As in
`facebookresearch/deit` (commit 7e160fe, `patchconvnet_models.py`), the map goes from block to block as tokens
(B, L, C), is viewed as (B, C, H, W) for the convolutions, 1 x 1 ones included, and squeeze-excite is timm's. Unlike the
official code it carries H and W along, so that it takes any size, and returns the maps of several blocks.

Parameters have densevit's names, and ``load_state_dict`` takes the state of a :class:`densevit.PatchConvNet`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import DropPath, SqueezeExcite
from torch import Tensor, nn

from ..backbones.patchconvnet import PatchConvNet

__all__ = ['PlainPatchConvNet', 'plain_patchconvnet']


class _SqueezeExcite(SqueezeExcite):
    """timm's, with densevit's names for the two 1 x 1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, rd_channels=max(1, round(channels * 0.25)))
        self.reduce, self.expand = self.fc1, self.fc2
        del self.fc1, self.fc2

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * self.gate(gate)


class _Block(nn.Module):
    def __init__(self, embed_dims: int, drop_path_rate: float, layer_scale_init: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)
        self.conv_in = nn.Conv2d(embed_dims, embed_dims, 1)
        self.conv_depthwise = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)
        self.squeeze_excite = _SqueezeExcite(embed_dims)
        self.conv_out = nn.Conv2d(embed_dims, embed_dims, 1)
        self.act = nn.GELU()
        self.gamma = nn.Parameter(torch.full((embed_dims,), layer_scale_init))
        self.drop_path = DropPath(drop_path_rate)

    def convolve(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        x = tokens.transpose(1, 2).unflatten(2, size)  # (B, C, H, W), by its strides channels_last
        x = self.act(self.conv_depthwise(self.act(self.conv_in(x))))
        return self.conv_out(self.squeeze_excite(x)).flatten(2).transpose(1, 2)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return x + self.drop_path(self.gamma * self.convolve(self.norm(x), size))


class PlainPatchConvNet(nn.Module):
    """The same function as :class:`densevit.PatchConvNet` of the same ``arch`` and ``out_indices``."""

    def __init__(
        self, arch: str | Mapping[str, Any], out_indices: Sequence[int] = (-1,), drop_path_rate: float = 0.0
    ) -> None:
        super().__init__()
        numbers = PatchConvNet.resolve_arch(arch)
        embed_dims, depth, stem_depth = numbers['embed_dims'], numbers['depth'], numbers['stem_depth']
        self.out_indices = tuple(index % depth for index in out_indices)
        widths = [3, *(embed_dims // 2**step for step in reversed(range(stem_depth)))]
        self.patch_embed = nn.Module()
        self.patch_embed.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        )
        self.act = nn.GELU()
        self.blocks = nn.ModuleList(
            _Block(embed_dims, drop_path_rate, numbers['layer_scale_init']) for _ in range(max(self.out_indices) + 1)
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # asked for the whole model's tensors, before the parts are
        for name, parameter in self.named_parameters(prefix=prefix.rstrip('.')):
            if name in state_dict and parameter.ndim == 4 and state_dict[name].ndim == 2:  # a linear layer there
                state_dict[name] = state_dict[name][:, :, None, None]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> maps (B, C, ceil(H / 16), ceil(W / 16)), one per ``out_indices``."""
        first, *others = self.patch_embed.convs
        x = first(x)
        for conv in others:
            x = conv(self.act(x))
        size, outs = (x.shape[2], x.shape[3]), []
        x = x.flatten(2).transpose(1, 2)  # (B, L, C)
        for index, block in enumerate(self.blocks):
            x = block(x, size)
            if index in self.out_indices:
                outs.append(x.transpose(1, 2).unflatten(2, size).contiguous())
        return tuple(outs)


def plain_patchconvnet(
    arch: str | Mapping[str, Any], out_indices: Sequence[int] = (-1,), drop_path_rate: float = 0.0
) -> PlainPatchConvNet:
    """A PatchConvNet as the official code computes it; see the module."""
    return PlainPatchConvNet(arch, out_indices, drop_path_rate)
