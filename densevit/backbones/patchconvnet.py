"""PatchConvNet: a column of residual convolution blocks on patches, one scale from the stem to the end.

Paper: Touvron, Cord, El-Nouby, Bojanowski, Joulin, Synnaeve, Jegou, "Augmenting Convolutional networks with
attention-based aggregation", 2021, https://arxiv.org/abs/2112.13692.
Official code (classification only): https://github.com/facebookresearch/deit, commit 7e160fe,
`patchconvnet_models.py`, Apache-2.0. This is an independent implementation, equal to it in every output.

The paper's figure, as code::

    image -> ConvStem (stride 16) -> block -> block -> ... -> block -> map
                                       |
       block:  x + gamma * ( LayerNorm -> 1x1 -> GELU -> 3x3 depth-wise -> GELU -> squeeze-excite -> 1x1 )

There is no attention in the trunk and no feed-forward layer: all attention is in the learned aggregation behind it
(:class:`densevit.LearnedAggregation`, in :class:`densevit.ImageClassifier`).

Deviations from the official code, none of which changes a result that it can compute:

* H and W are carried along. The official block takes the side as int(sqrt(N)), which fails on most non-square images
  and scrambles the others in silence.
* 1 x 1 convolutions are linear layers on (B, H, W, C); parameter names are ours, see
  :mod:`densevit.checkpoints.patchconvnet`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from ..layers import ConvStem, Foldable, SqueezeExcite, check_drop_path_rate, to_nchw, to_nhwc
from ..layers.activation import gelu_
from ..layers.convert import contiguous_nchw
from ..layers.linear import add_linear, is_plain
from ..layers.recompute import layer_of
from ..registry import MODELS
from .base import Backbone

__all__ = ['PatchConvBlock', 'PatchConvNet']


class PatchConvBlock(Foldable):
    """One residual block of the trunk: (B, H, W, C) -> (B, H, W, C).

    Args:
        embed_dims: C, channels.
        drop_path_rate: chance in [0, 1) that training skips the branch for an image.
        layer_scale_init: first value of ``gamma``, the branch's per-channel factor.
    """

    def __init__(self, embed_dims: int, drop_path_rate: float = 0.0, layer_scale_init: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)
        self.conv_in = nn.Linear(embed_dims, embed_dims)
        self.conv_depthwise = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)
        self.squeeze_excite = SqueezeExcite(embed_dims, reduction_ratio=0.25)
        self.conv_out = nn.Linear(embed_dims, embed_dims)
        self.gamma = nn.Parameter(torch.full((embed_dims,), layer_scale_init))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        # layer_of(layer, f, z) is layer(f(z)), and stores z alone for the backward pass
        if not is_plain(self.norm, self.conv_in, self.conv_depthwise):  # others see what goes in and out
            branch = F.gelu(self.conv_in(self.norm(x)))
            branch = F.gelu(to_nhwc(self.conv_depthwise(to_nchw(branch))))
        else:
            branch = layer_of(self.conv_in, self._normed, x, self.norm.weight, self.norm.bias, y=self.norm(x))
            branch = to_nchw(branch)
            branch = gelu_(to_nhwc(layer_of(self.conv_depthwise, F.gelu, branch, y=gelu_(branch))))
        gate = self.squeeze_excite.gate(branch)  # (B, 1, 1, C)
        if self.is_folded and is_plain(self.conv_out):
            return add_linear(x, branch.mul_(gate), *self.derived(self._scaled_conv_out))
        branch = layer_of(self.conv_out, torch.mul, branch, gate)
        return torch.addcmul(x, self.gamma, self.drop_path(branch))

    def _normed(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, self.norm.normalized_shape, weight, bias, self.norm.eps)

    def _scaled_conv_out(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of ``conv_out``, multiplied by ``gamma``."""
        return self.gamma[:, None] * self.conv_out.weight, self.gamma * self.conv_out.bias


@MODELS.register_module()
class PatchConvNet(Backbone):
    """The trunk of PatchConvNet as a backbone with one scale.

    Every map has C channels and stride 16 (2 ** stem_depth); H and W are rounded up, as the stem's padded
    convolutions do. :class:`densevit.ColumnarPyramid` makes a pyramid of them.

    Args:
        arch: a name in ``ARCHS`` or a dict with ``embed_dims`` (C), ``depth`` (number of blocks) and optionally
            ``layer_scale_init`` and ``stem_depth`` (number of stride-2 convolutions).
        in_channels: channels of the image.
        out_indices: blocks whose output is returned, ascending, negative from the end; the last by default.
        drop_path_rate: stochastic depth in [0, 1), the same for all blocks, as in the paper.
        frozen_stages: -1 nothing, 0 the stem, n also the first n blocks.
        with_cp: recompute the blocks in the backward pass to save memory.
        attn_backend: part of the contract; the trunk has no attention.
        init_cfg: mmengine's initialization config.

    Example:
        >>> model = PatchConvNet('S60', out_indices=(19, 29, 39, 59))
        >>> [tuple(m.shape) for m in model(torch.zeros(1, 3, 64, 100))][0]
        (1, 384, 4, 7)
    """

    # README_patchconvnet.md and patchconvnet_models.py of the official code.
    ARCHS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        'S60': dict(embed_dims=384, depth=60, layer_scale_init=1e-4),  # 25.2 M with aggregation and head
        'S120': dict(embed_dims=384, depth=120, layer_scale_init=1e-6),  # 47.7 M
        'B60': dict(embed_dims=768, depth=60, layer_scale_init=1e-6),  # 99.4 M
        'B120': dict(embed_dims=768, depth=120, layer_scale_init=1e-6),  # 188.6 M
        'L60': dict(embed_dims=1024, depth=60, layer_scale_init=1e-6),  # 176.0 M
        'L120': dict(embed_dims=1024, depth=120, layer_scale_init=1e-6),  # 334.3 M
    }
    ARCH_DEFAULTS: ClassVar[Mapping[str, Any]] = dict(layer_scale_init=1e-6, stem_depth=4)
    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (PatchConvBlock,)

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'S60',
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] = (-1,),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        attn_backend: str = 'auto',
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        numbers = self.resolve_arch(arch)
        check_drop_path_rate(drop_path_rate)
        embed_dims, depth = numbers['embed_dims'], numbers['depth']
        super().__init__(
            num_stages=depth,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            attn_backend=attn_backend,
            init_cfg=init_cfg,
        )
        self.patch_embed = ConvStem(in_channels, embed_dims, numbers['stem_depth'])
        self.blocks = nn.ModuleList(
            PatchConvBlock(embed_dims, drop_path_rate, numbers['layer_scale_init'])
            # a block behind the last output would be computed for nothing and get no gradient
            for _ in range(self.out_indices[-1] + 1)
        )
        self.layer_scale_init = numbers['layer_scale_init']
        self.out_channels = (embed_dims,) * len(self.out_indices)
        self.out_strides = (self.patch_embed.stride,) * len(self.out_indices)
        self.freeze()

    def stages(self) -> Iterator[nn.Module]:
        yield self.patch_embed
        yield from self.blocks

    def is_unbuilt(self, name: str) -> bool:
        block = re.match(r'blocks\.(\d+)\.', name)
        return bool(block) and int(block[1]) >= len(self.blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> maps (B, C, ceil(H / 16), ceil(W / 16)), one per ``out_indices``."""
        x, outs = self.patch_embed(x), []  # (B, H / 16, W / 16, C)
        for index, block in enumerate(self.blocks):
            x = self.run(block, x)
            if index in self.out_indices:
                outs.append(contiguous_nchw(x))
        return tuple(outs)
