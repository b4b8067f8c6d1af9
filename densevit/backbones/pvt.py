"""PVT and PVT v2: pyramids of four transformer stages whose attention looks at a reduced map.

Papers: Wang, Xie, Li, Fan, Song, Liang, Lu, Luo, Shao, "Pyramid Vision Transformer: A Versatile Backbone for Dense
Prediction without Convolutions", 2021, https://arxiv.org/abs/2102.12122, and "PVT v2: Improved Baselines with Pyramid
Vision Transformer", 2021, https://arxiv.org/abs/2106.13797.
Official code: https://github.com/whai362/PVT, commit 57e2dfa, `classification/`, `detection/` and `segmentation/`,
Apache-2.0. This is an independent implementation, equal to it in every output.

The papers' figures, as code::

    image -> stage 1 (stride 4) -> stage 2 (8) -> stage 3 (16) -> stage 4 (32)

       stage, v1:  patches side by side -> LayerNorm -> + position table -> blocks             -> map
       stage, v2:  patches that overlap -> LayerNorm                     -> blocks -> LayerNorm -> map

       block:      x + SpatialReductionAttention(LayerNorm(x)), then x + Mlp(LayerNorm(x)); in v2 a 3 x 3 depth-wise
                   convolution inside the Mlp tells where a token stands

The class token of v1 is no part of the dense model; :class:`densevit.ImageClassifier` adds it to the last stage.

Deviations from the official code, none of which changes a result that it computes as the papers say:

* A position table is interpolated exactly when the map has another height or width than the table. The official test
  is whether the map has as many tokens as the table of *stage 1*, so that it fails where a later stage has that number
  (images of 448 x 448 and 896 x 896), and adds the table's rows to a map of other rows at, say, 112 x 448.
* A map with a side shorter than the reduction's kernel is zero-padded to one kernel. The official code fails.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import (
    Mlp,
    PatchEmbed,
    TransformerBlock,
    attention,
    merge_heads,
    resample_position,
    split_heads,
    stochastic_depth_rates,
    to_nchw,
    to_nhwc,
)
from ..layers.attention_layer import GlobalAttention
from ..layers.attention_record import Recordable
from ..layers.conv import strided_conv
from ..layers.convert import contiguous_nchw
from ..layers.depthwise import depthwise_mlp
from ..layers.patch_embed import check_channels
from ..registry import MODELS
from .base import Backbone

__all__ = ['ConvMlp', 'PyramidVisionTransformer', 'PyramidVisionTransformerV2', 'SpatialReductionAttention']


class SpatialReductionAttention(Recordable):
    """Attention of all tokens to a smaller map: (B, H, W, C) -> (B, H, W, C).

    Keys and values are made of (paper of v1, section 3.3; paper of v2, "Linear Spatial Reduction Attention"):

    * ``sr_ratio`` 1: the map itself;
    * ``sr_ratio`` r: a convolution over patches of r x r tokens, then LayerNorm. Rows and columns that fill no patch
      are left out; a side shorter than r is zero-padded to r;
    * ``linear``: the map averaged to 7 x 7 whatever its size, a 1 x 1 convolution, LayerNorm and GELU.

    Args:
        embed_dims: C, channels.
        num_heads: heads, each of C / num_heads channels.
        sr_ratio: r, in tokens.
        linear: the cost grows linearly with H * W; ``sr_ratio`` then means nothing.
        attn_backend: see :func:`densevit.layers.attention`.

    Raises:
        ValueError: C is not a multiple of the number of heads.
    """

    pool_size = 7

    def __init__(
        self, embed_dims: int, num_heads: int, *, sr_ratio: int = 1, linear: bool = False, attn_backend: str = 'auto'
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims={embed_dims} is not a multiple of num_heads={num_heads}')
        self.num_heads, self.linear, self.attn_backend = num_heads, linear, attn_backend
        self.sr_ratio = 1 if linear else sr_ratio
        self.q = nn.Linear(embed_dims, embed_dims)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        if linear or sr_ratio > 1:
            self.sr = nn.Conv2d(embed_dims, embed_dims, self.sr_ratio, stride=self.sr_ratio)
            self.norm = nn.LayerNorm(embed_dims)  # eps 1e-5, unlike the norms of the block

    def reduce(self, x: Tensor) -> Tensor:
        """What keys and values are made of: (B, H, W, C) -> (B, H', W', C)."""
        if not self.linear and self.sr_ratio == 1:
            return x
        H, W = x.shape[1:3]
        x = to_nchw(x)  # (B, C, H, W)
        if self.linear:
            x = F.adaptive_avg_pool2d(x, self.pool_size)  # (B, C, 7, 7)
        elif H < self.sr_ratio or W < self.sr_ratio:
            x = F.pad(x, (0, max(self.sr_ratio - W, 0), 0, max(self.sr_ratio - H, 0)))
        x = self.norm(strided_conv(self.sr, x))  # (B, H / r, W / r, C)
        return F.gelu(x) if self.linear else x

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """``size`` is (H, W) of the map where ``x`` is one row of its tokens behind others; only a recording asks."""
        q_BLC = self.q(x).flatten(1, 2)
        reduced = self.reduce(x)  # (B, H', W', C)
        k_BSC, v_BSC = self.kv(reduced).flatten(1, 2).chunk(2, dim=-1)
        q_BhLd, k_BhSd, v_BhSd = (split_heads(each, self.num_heads) for each in (q_BLC, k_BSC, v_BSC))
        if self.recorder is not None:
            self.recorder(self._recorded(q_BhLd, k_BhSd, size or x.shape[1:3], reduced.shape[1:3]))
        mixed_BhLd = attention(q_BhLd, k_BhSd, v_BhSd, backend=self.attn_backend)
        return self.proj(merge_heads(mixed_BhLd)).view(x.shape)  # (B, L, C) -> (B, H, W, C)

    def _recorded(self, q: Tensor, k: Tensor, size: tuple[int, int], reduced: tuple[int, int]) -> GlobalAttention:
        if not self.linear and self.sr_ratio == 1:
            return GlobalAttention(q, k, query_size=size, key_size=size, is_square=True, kind='full attention')
        if self.linear:
            step, kind = (size[0] / reduced[0], size[1] / reduced[1]), 'attention to a pooled map'
        else:
            step, kind = (self.sr_ratio, self.sr_ratio), f'attention to a map reduced by {self.sr_ratio}'
        return GlobalAttention(q, k, query_size=size, key_size=reduced, key_step=step, kind=kind)


class ConvMlp(Mlp):
    """Linear, 3 x 3 depth-wise convolution, GELU, linear: (B, H, W, C) -> (B, H, W, C).

    Source: paper of v2, "Convolutional Feed-Forward".

    Args:
        embed_dims: C, channels in and out.
        hidden_dims: channels between the two linear layers.
        relu: a ReLU directly behind the first of them, as the linear variant has.
    """

    def __init__(self, embed_dims: int, hidden_dims: int, *, relu: bool = False) -> None:
        super().__init__(embed_dims, hidden_dims)
        conv = nn.Conv2d(hidden_dims, hidden_dims, 3, padding=1, groups=hidden_dims)
        self.dwconv = nn.Sequential(OrderedDict(dwconv=conv))  # the official name is dwconv.dwconv
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_mlp(x, self.fc1, self.dwconv.dwconv, self.fc2, relu=self.relu)


class _Pyramid(Backbone):
    """What the two versions share: stages of a patch embedding and blocks, each on fewer tokens than the one before.

    ``index`` counts stages from 0, as ``out_indices`` does; the names of parameters count from 1, as the official
    ones do.
    """

    ARCH_DEFAULTS: ClassVar[Mapping[str, Any]] = dict(
        num_heads=(1, 2, 5, 8), mlp_ratios=(8, 8, 4, 4), sr_ratios=(8, 4, 2, 1)
    )

    def __init__(
        self,
        numbers: Mapping[str, Any],
        *,
        in_channels: int,
        out_indices: Sequence[int],
        drop_path_rate: float,
        frozen_stages: int,
        with_cp: bool,
        attn_backend: str,
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
    ) -> None:
        depths, widths = numbers['depths'], numbers['embed_dims']
        for key in ('embed_dims', 'num_heads', 'mlp_ratios', 'sr_ratios'):
            if len(numbers[key]) != len(depths):
                raise ValueError(
                    f'arch: {key}={tuple(numbers[key])} has {len(numbers[key])} entries, but depths={tuple(depths)} '
                    f'has {len(depths)}; give one per stage'
                )
        super().__init__(
            num_stages=len(depths),
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            attn_backend=attn_backend,
            init_cfg=init_cfg,
        )
        self.num_stages = len(depths)
        self.sr_ratios = tuple(numbers['sr_ratios'])
        self.strides: tuple[int, ...] = ()  # of the built stages, in pixels of the image
        rates = iter(stochastic_depth_rates(drop_path_rate, sum(depths)))
        # a stage behind the last output would be computed for nothing and get no gradient
        for index in range(self.out_indices[-1] + 1):
            stage, width, stride = index + 1, widths[index], 2 if index else 4
            patch_embed = self.make_patch_embed(widths[index - 1] if index else in_channels, width, stride)
            blocks = nn.ModuleList(
                TransformerBlock(
                    width,
                    SpatialReductionAttention(
                        width,
                        numbers['num_heads'][index],
                        sr_ratio=numbers['sr_ratios'][index],
                        linear=numbers.get('linear', False),
                        attn_backend=attn_backend,
                    ),
                    self.make_mlp(width, int(width * numbers['mlp_ratios'][index]), numbers),
                    norm_eps=1e-6,
                    drop_path_rate=next(rates),
                )
                for _ in range(depths[index])
            )
            setattr(self, f'patch_embed{stage}', patch_embed)
            setattr(self, f'block{stage}', blocks)
            self.strides += (4 * 2**index,)
        self.out_channels = tuple(widths[index] for index in self.out_indices)
        self.out_strides = tuple(self.strides[index] for index in self.out_indices)

    def make_patch_embed(self, in_channels: int, embed_dims: int, stride: int) -> PatchEmbed:
        """The patch embedding of a stage."""
        raise NotImplementedError

    def make_mlp(self, embed_dims: int, hidden_dims: int, numbers: Mapping[str, Any]) -> Mlp:
        """The feed-forward part of a block."""
        raise NotImplementedError

    def set_embed_norm_eps(self, eps: float) -> None:
        """Change what ``embed_norm_eps`` says."""
        for module in self.modules():
            if isinstance(module, PatchEmbed | SpatialReductionAttention) and hasattr(module, 'norm'):
                module.norm.eps = eps

    def follow(self, origin: str, has_heads: bool) -> str:
        # a backbone alone by mmdetection's names is an official one, renamed
        if not (has_heads and origin.endswith(', mm')):
            return ''
        self.set_embed_norm_eps(1e-6)
        return 'embed_norm_eps is 1e-6 now, as mmdetection trains; write it into the config to keep it'

    def init_layer(self, module: nn.Module) -> None:
        """Linear layers truncated normal with deviation 0.02, biases 0; the rest as torch has it."""
        if isinstance(module, nn.Conv2d | nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def _parts(self, stage: int, *names: str) -> list[nn.Module | nn.Parameter]:
        """Those of the named parts of a stage, counted from 1, that this version has."""
        return [getattr(self, f'{name}{stage}') for name in names if hasattr(self, f'{name}{stage}')]

    def stages(self) -> Iterator[Sequence[nn.Module | nn.Parameter]]:
        yield self._parts(1, 'patch_embed', 'pos_embed')
        for index in range(len(self.strides)):
            yield self._parts(index + 1, 'patch_embed', 'pos_embed', 'block', 'norm')

    def is_unbuilt(self, name: str) -> bool:
        part = re.match(r'(?:patch_embed|pos_embed|block|norm)(\d+)\b', name)
        return bool(part) and int(part[1]) > len(self.strides)

    def blocks(self, index: int) -> nn.ModuleList:
        """The blocks of a stage: (B, H, W, C) -> (B, H, W, C) each."""
        return getattr(self, f'block{index + 1}')

    def attention_layers(self) -> Iterator[tuple[str, Recordable, int]]:
        for index, stride in enumerate(self.strides):
            for number, block in enumerate(self.blocks(index)):
                yield f'stages.{index}.blocks.{number}', block.attn, stride

    def embed(self, x: Tensor, index: int) -> Tensor:
        """The tokens of a stage, (B, H, W, C), from the image or from the map before, both (B, H', W', C')."""
        return getattr(self, f'patch_embed{index + 1}')(to_nchw(x))

    def forward_stage(self, x: Tensor, index: int) -> Tensor:
        """The map of a stage, (B, H, W, C), from the image or from the map before, both (B, H', W', C')."""
        x = self.embed(x, index)
        for block in self.blocks(index):
            x = self.run(block, x)
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> maps (B, C_i, H_i, W_i) of strides 4, 8, 16, 32, one per ``out_indices``."""
        check_channels(x, self.patch_embed1.proj.in_channels)
        x, outs = to_nhwc(x).contiguous(), []
        for index in range(len(self.strides)):
            x = self.forward_stage(x, index)  # (B, H / s, W / s, C), s = self.strides[index]
            if index in self.out_indices:
                outs.append(contiguous_nchw(x))
        return tuple(outs)


@MODELS.register_module()
class PyramidVisionTransformer(_Pyramid):
    """PVT (v1): patches side by side, a learned position table per stage, no norm on the maps.

    H and W are rounded down, stage by stage: a remainder that fills no patch is dropped, as in the official code. With
    all four stages an image needs 32 pixels on both sides; a smaller one raises a ValueError.

    Args:
        arch: a name in ``ARCHS`` or a dict with ``embed_dims`` (C) and ``depths`` (number of blocks) and optionally
            ``num_heads``, ``mlp_ratios`` (hidden channels as multiples of C) and ``sr_ratios`` (sides of the
            attention's reduction, in tokens), each with one entry per stage.
        in_channels: channels of the image.
        img_size: height and width, or side, in pixels, of the images that the position tables are made for; for
            others they are interpolated. Official weights are made for 224.
        out_indices: stages whose output is returned, ascending, negative from the end.
        drop_path_rate: stochastic depth of the last block, in [0, 1); rises linearly from 0 at the first.
        embed_norm_eps: added to the variance in the norms of patch embeddings and reductions; 1e-5 officially,
            1e-6 in mmdetection's, for weights that were trained there.
        frozen_stages: -1 nothing, 0 the first patch embedding and its table, n also the first n stages.
        with_cp: recompute the blocks in the backward pass to save memory.
        attn_backend: see :func:`densevit.layers.attention`.
        init_cfg: mmengine's initialization config.

    Example:
        >>> model = PyramidVisionTransformer('tiny')
        >>> [tuple(m.shape[1:]) for m in model(torch.zeros(1, 3, 64, 100))]
        [(64, 16, 25), (128, 8, 12), (320, 4, 6), (512, 2, 3)]
    """

    # Table 1 of the paper. Parameters with class token, norm and head for 1000 classes.
    ARCHS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        'tiny': dict(embed_dims=(64, 128, 320, 512), depths=(2, 2, 2, 2)),  # 13.2 M
        'small': dict(embed_dims=(64, 128, 320, 512), depths=(3, 4, 6, 3)),  # 24.5 M
        'medium': dict(embed_dims=(64, 128, 320, 512), depths=(3, 4, 18, 3)),  # 44.2 M
        'large': dict(embed_dims=(64, 128, 320, 512), depths=(3, 8, 27, 3)),  # 61.4 M
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'small',
        *,
        in_channels: int = 3,
        img_size: int | Sequence[int] = 224,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        embed_norm_eps: float = 1e-5,
        frozen_stages: int = -1,
        with_cp: bool = False,
        attn_backend: str = 'auto',
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        numbers = self.resolve_arch(arch)
        super().__init__(
            numbers,
            in_channels=in_channels,
            out_indices=out_indices,
            drop_path_rate=drop_path_rate,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            attn_backend=attn_backend,
            init_cfg=init_cfg,
        )
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if min(height, width) < self.strides[-1]:
            raise ValueError(
                f'img_size={img_size} leaves stage {len(self.strides)} no token; both sides must be at least '
                f'{self.strides[-1]} pixels'
            )
        self.grids = tuple((height // stride, width // stride) for stride in self.strides)  # in tokens
        for index, (H, W) in enumerate(self.grids):
            # the last table begins with the class token's entry, which the dense model does not use
            entries = H * W + (index == self.num_stages - 1)
            table = torch.empty(1, entries, numbers['embed_dims'][index])
            setattr(self, f'pos_embed{index + 1}', nn.Parameter(nn.init.trunc_normal_(table, std=0.02)))
        self.set_embed_norm_eps(embed_norm_eps)
        self.freeze()

    def make_patch_embed(self, in_channels: int, embed_dims: int, stride: int) -> PatchEmbed:
        return PatchEmbed(in_channels, embed_dims, kernel_size=stride)

    def make_mlp(self, embed_dims: int, hidden_dims: int, numbers: Mapping[str, Any]) -> Mlp:
        return Mlp(embed_dims, hidden_dims)

    def init_layer(self, module: nn.Module) -> None:
        """As both versions, and position tables truncated normal with deviation 0.02."""
        super().init_layer(module)
        if module is self:
            for table in self.parameters(recurse=False):
                nn.init.trunc_normal_(table, std=0.02)

    @property
    def class_position(self) -> Tensor:
        """The class token's entry of the last stage's table, (1, 1, C).

        Raises:
            ValueError: this model cannot take a class token in.
        """
        if len(self.strides) < self.num_stages or self.sr_ratios[-1] != 1:
            raise ValueError(
                f'a class token needs the last stage, without spatial reduction: out_indices={self.out_indices} must '
                f'end with {self.num_stages - 1} (or -1), and sr_ratios={self.sr_ratios} with 1'
            )
        return getattr(self, f'pos_embed{self.num_stages}')[:, :1]

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """A position table for images of another size, interpolated as the model would do it at run time.

        Tables are taken for those of square images, as all published ones are. The class token's entry stays.
        """
        table = re.fullmatch(r'pos_embed(\d+)', name)
        if not table or tensor.ndim != 3 or tensor.shape[::2] != self.get_parameter(name).shape[::2]:
            return None
        index = int(table[1]) - 1
        slots = int(index == self.num_stages - 1)  # of the class token
        side = math.isqrt(max(tensor.shape[1] - slots, 0))
        if not side or side**2 + slots != tensor.shape[1] or self.grids[index] == (side, side):
            return None
        tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        positions = resample_position(tensor[:, slots:], (side, side), self.grids[index])  # (1, H, W, C)
        return torch.cat([tensor[:, :slots], positions.flatten(1, 2)], dim=1)

    def embed(self, x: Tensor, index: int) -> Tensor:
        """The tokens of a stage with their positions, (B, H, W, C), from the image or the map before.

        Raises:
            ValueError: the image is too small for the stage.
        """
        patch = 2 if index else 4
        if min(x.shape[1:3]) < patch:
            raise ValueError(
                f'the image is too small: stage {index + 1} makes patches of {patch} x {patch} and was given '
                f'{x.shape[1]} x {x.shape[2]}; {type(self).__name__} needs at least {self.strides[-1]} pixels on both '
                'sides, or fewer stages (out_indices)'
            )
        tokens = super().embed(x, index)
        table = getattr(self, f'pos_embed{index + 1}')
        if index == self.num_stages - 1:
            table = table[:, 1:]
        return tokens + resample_position(table, self.grids[index], tokens.shape[1:3])


@MODELS.register_module()
class PyramidVisionTransformerV2(_Pyramid):
    """PVT v2: patches that overlap, convolutions instead of position tables, a norm behind each stage.

    H and W are rounded up, stage by stage, as the padded patch embeddings of the official code do. The norm stands
    between two stages too, not only on the returned maps.

    Args:
        arch: a name in ``ARCHS`` or a dict with ``embed_dims`` (C) and ``depths`` (number of blocks) and optionally
            ``num_heads``, ``mlp_ratios`` (hidden channels as multiples of C) and ``sr_ratios`` (sides of the
            attention's reduction, in tokens), each with one entry per stage, and ``linear`` (reduce by pooling).
        in_channels: channels of the image.
        out_indices: stages whose output is returned, ascending, negative from the end.
        drop_path_rate: stochastic depth of the last block, in [0, 1); rises linearly from 0 at the first.
        embed_norm_eps: added to the variance in the norms of patch embeddings and reductions; 1e-5 officially,
            1e-6 in mmdetection's, for weights that were trained there.
        frozen_stages: -1 nothing, 0 the first patch embedding, n also the first n stages with their norms.
        with_cp: recompute the blocks in the backward pass to save memory.
        attn_backend: see :func:`densevit.layers.attention`.
        init_cfg: mmengine's initialization config.

    Example:
        >>> model = PyramidVisionTransformerV2('b0')
        >>> [tuple(m.shape[1:]) for m in model(torch.zeros(1, 3, 64, 100))]
        [(32, 16, 25), (64, 8, 13), (160, 4, 7), (256, 2, 4)]
    """

    # Table 1 of the paper. Parameters with head for 1000 classes.
    ARCHS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        'b0': dict(embed_dims=(32, 64, 160, 256), depths=(2, 2, 2, 2)),  # 3.7 M
        'b1': dict(embed_dims=(64, 128, 320, 512), depths=(2, 2, 2, 2)),  # 14.0 M
        'b2': dict(embed_dims=(64, 128, 320, 512), depths=(3, 4, 6, 3)),  # 25.4 M
        'b2-li': dict(embed_dims=(64, 128, 320, 512), depths=(3, 4, 6, 3), linear=True),  # 22.6 M
        'b3': dict(embed_dims=(64, 128, 320, 512), depths=(3, 4, 18, 3)),  # 45.2 M
        'b4': dict(embed_dims=(64, 128, 320, 512), depths=(3, 8, 27, 3)),  # 62.6 M
        'b5': dict(embed_dims=(64, 128, 320, 512), depths=(3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4)),  # 82.0 M
    }
    ARCH_DEFAULTS: ClassVar[Mapping[str, Any]] = {**_Pyramid.ARCH_DEFAULTS, 'linear': False}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'b2',
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        embed_norm_eps: float = 1e-5,
        frozen_stages: int = -1,
        with_cp: bool = False,
        attn_backend: str = 'auto',
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        numbers = self.resolve_arch(arch)
        super().__init__(
            numbers,
            in_channels=in_channels,
            out_indices=out_indices,
            drop_path_rate=drop_path_rate,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            attn_backend=attn_backend,
            init_cfg=init_cfg,
        )
        for index in range(len(self.strides)):
            setattr(self, f'norm{index + 1}', nn.LayerNorm(numbers['embed_dims'][index], eps=1e-6))
        self.set_embed_norm_eps(embed_norm_eps)
        self.freeze()

    def make_patch_embed(self, in_channels: int, embed_dims: int, stride: int) -> PatchEmbed:
        # paper, "Overlapping Patch Embedding": stride S, kernel 2 S - 1, padding S - 1
        return PatchEmbed(in_channels, embed_dims, kernel_size=2 * stride - 1, stride=stride, padding=stride - 1)

    def make_mlp(self, embed_dims: int, hidden_dims: int, numbers: Mapping[str, Any]) -> Mlp:
        return ConvMlp(embed_dims, hidden_dims, relu=numbers['linear'])

    def init_layer(self, module: nn.Module) -> None:
        """As both versions, but convolutions normal with variance 2 / fan-out, counted for one group, and biases 0."""
        super().init_layer(module)
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            nn.init.zeros_(module.bias)

    def forward_stage(self, x: Tensor, index: int) -> Tensor:
        """The map of a stage, normed, (B, H, W, C), from the image or the map before, both (B, H', W', C')."""
        return getattr(self, f'norm{index + 1}')(super().forward_stage(x, index))
