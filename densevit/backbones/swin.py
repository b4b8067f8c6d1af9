"""Swin Transformer: attention inside windows that shift from block to block, on a pyramid of four scales.

Paper: Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo, "Swin Transformer: Hierarchical Vision Transformer using Shifted
Windows", 2021, https://arxiv.org/abs/2103.14030.
Official code: https://github.com/microsoft/Swin-Transformer, commit f82860b, `models/swin_transformer.py`, MIT, and
its dense versions `SwinTransformer/Swin-Transformer-Semantic-Segmentation` (commit 87e6f90) and `-Object-Detection`
(commit c7b2011). This is an independent implementation, equal to the dense versions in every output; the rules of the
classification code that differ are in :mod:`densevit.classifiers.swin`.

The paper's figure, as code::

    image -> PatchEmbed (stride 4) -> blocks -> merging (stride 8) -> blocks -> merging (16) -> ...
                                         |                              |                         |
                                       norm0 -> map                   norm1 -> map              norm2 -> map
       block:  x + window attention(LayerNorm(x)), then x + MLP(LayerNorm(x)); the windows of odd blocks are shifted

Deviations from the official code, none of which changes a result that it can compute:

* Position index and shift mask are no buffers; they are computed from the size of the map when they are needed.
* Bias and mask are added up before the attention instead of to its scores one after the other, for the fused kernels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import (
    Foldable,
    Mlp,
    PatchEmbed,
    TransformerBlock,
    WindowLayout,
    pad_to_multiple,
    relative_position_bias,
    resample_position,
    stochastic_depth_rates,
    window_attention,
    window_layout,
)
from ..layers.attention_layer import WindowedAttention
from ..layers.attention_record import Recordable
from ..layers.convert import contiguous_nchw
from ..layers.linear import is_plain
from ..layers.pieces import at_a_time
from ..layers.recompute import layer_of
from ..registry import MODELS
from .base import Backbone

__all__ = [
    'PatchMerging',
    'SwinTransformer',
    'TableWindowAttention',
    'WindowAttention',
    'WindowRule',
    'fixed_windows',
    'two_by_two',
]

PATCH_SIZE = 4  # pixels

# (H, W) of a map, the model's window side, index of the block in its stage -> window side and shift, all in tokens
WindowRule = Callable[[tuple[int, int], int, int], tuple[int, int]]


def fixed_windows(size: tuple[int, int], window_size: int, block_index: int) -> tuple[int, int]:
    """The dense code's rule: no window ever shrinks, and every odd block is shifted, in the last stage too."""
    return window_size, window_size // 2 if block_index % 2 else 0


class WindowAttention(Foldable, Recordable):
    """Multi-head attention inside windows: (B, H, W, C) -> (B, H, W, C). What both versions of Swin share.

    Args:
        embed_dims: C, channels.
        num_heads: heads, each of C / num_heads channels.
        attn_backend: see :func:`densevit.layers.attention`.
        qkv_bias: give the projection of queries, keys and values a bias.
    """

    scale: ClassVar[float | None] = None  # factor on q k^T; None is d ** -0.5

    def __init__(self, embed_dims: int, num_heads: int, attn_backend: str, *, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn_backend = attn_backend
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, layout: WindowLayout) -> Tensor:
        """Mix the tokens of each window.

        Args:
            x: map (B, H, W, C).
            layout: windows over it; their padding takes part in attention, as in the official dense code.
        """
        bias = self.derived(self.position_bias, layout.side)  # (h, L, L)
        attend = partial(window_attention, bias=bias, scale=self.scale, backend=self.attn_backend)
        if self.recorder is not None:
            attend = self._recording(attend, x.shape[:3], layout, bias)
        zero = x.new_zeros(x.shape[-1])  # what a padded token is
        windows = sum(layout.counts)
        count = at_a_time(x, windows, 3 * layout.side**2 * x.shape[-1])
        plain = is_plain(self.qkv, self.proj)
        if count >= windows or not plain:
            if plain and not len(layout.padding):  # one third of what is moved behind the projection
                qkv = self.project(layout.cut(x, padding=zero))
            else:  # padding joins the other tokens behind the first projection, and is gone before the last one
                qkv = layout.cut(self.project(x).flatten(-3), padding=self.project(zero).flatten())
                qkv = qkv.unflatten(-1, (3, self.num_heads, -1))
            return self.proj(layout.join(attend(qkv, layout), x.shape[:3]))
        # of a large map little is padding
        tokens = layout.cut(x, padding=zero)  # (N, L, C)
        for some, part in layout.parts(count):
            tokens[some] = self.proj(attend(self.project(tokens[some]), part))
        return layout.join(tokens, x.shape[:3])

    def _recording(
        self,
        attend: Callable[[Tensor, WindowLayout], Tensor],
        size: tuple[int, int, int],
        whole: WindowLayout,
        bias: Tensor,
    ) -> Callable[[Tensor, WindowLayout], Tensor]:
        """``attend``, which is called with some windows after the other, and hands over all of them behind the last."""
        parts: list[Tensor] = []

        def listening(qkv: Tensor, layout: WindowLayout) -> Tensor:
            parts.append(qkv[:, :, :2].detach().clone())
            if sum(map(len, parts)) == sum(whole.counts):
                self.recorder(WindowedAttention(torch.cat(parts), whole, size, bias=bias, scale=self.scale))
            return attend(qkv, layout)

        return listening

    def project(self, tokens: Tensor) -> Tensor:
        """Queries, keys and values: (..., C) -> (..., 3, h, d)."""
        return self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))

    def position_bias(self, side: int) -> Tensor:
        """What is added to the scores of a window, (h, L, L)."""
        return relative_position_bias(self.position_table(side))

    def position_table(self, side: int) -> Tensor:
        """The bias of every distance inside a window, (2 side - 1, 2 side - 1, h)."""
        raise NotImplementedError


class TableWindowAttention(WindowAttention):
    """Window attention with a learned bias for every head and distance (equation 4 of the paper).

    Args:
        embed_dims: C, channels.
        num_heads: heads, each of C / num_heads channels.
        window_size: side of the window that the table is for, in tokens.
        attn_backend: see :func:`densevit.layers.attention`.
    """

    def __init__(self, embed_dims: int, num_heads: int, window_size: int, attn_backend: str = 'auto') -> None:
        super().__init__(embed_dims, num_heads, attn_backend, qkv_bias=True)
        self.window_size = window_size
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))

    def position_table(self, side: int) -> Tensor:
        """The table, or of a smaller window its middle, (2 side - 1, 2 side - 1, h)."""
        distances = 2 * self.window_size - 1
        middle = slice(self.window_size - side, self.window_size + side - 1)
        return self.relative_position_bias_table.unflatten(0, (distances, distances))[middle, middle]


def two_by_two(x: Tensor) -> Tensor:
    """Four neighbours in one token: (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 4C), odd sides zero-padded.

    The order is upper left, lower left, upper right, lower right.
    """
    x = pad_to_multiple(x, 2).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, 2, W / 2, 2, C)
    return x.permute(0, 1, 3, 4, 2, 5).flatten(3)


class PatchMerging(nn.Module):
    """Half the height and width, twice the channels: (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2C)."""

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * embed_dims)
        self.reduction = nn.Linear(4 * embed_dims, 2 * embed_dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = two_by_two(x)
        if not is_plain(self.norm, self.reduction):
            return self.reduction(self.norm(x))
        # stores x alone for the backward pass, not the normed x as well
        return layer_of(self.reduction, self._normed, x, self.norm.weight, self.norm.bias, y=self.norm(x))

    def _normed(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, self.norm.normalized_shape, weight, bias, self.norm.eps)


class SwinStage(nn.Module):
    """Blocks of one scale and, where a later stage is built, the way there; the backbone runs them."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


@MODELS.register_module()
class SwinTransformer(Backbone):
    """Swin Transformer (version 1) as a backbone of four scales.

    The maps have C, 2C, 4C, 8C channels and strides 4, 8, 16, 32; H and W are rounded up at every step, as the dense
    code pads image, windows and mergings with zeros, right and bottom. Each output has its own LayerNorm (eps 1e-5),
    which classification weights do not have and leave as it is.

    The official recipes decay neither the bias tables nor the norms. In an mmengine config::

        paramwise_cfg=dict(custom_keys={
            'relative_position_bias_table': dict(decay_mult=0.0),
            'norm': dict(decay_mult=0.0)})

    Args:
        arch: a name in ``ARCHS`` or a dict with ``embed_dims`` (C), ``depths`` and ``num_heads`` (both per stage) and
            optionally ``mlp_ratio``.
        in_channels: channels of the image.
        window_size: side of the attention window in tokens, in every stage; tables of another one are resized.
        out_indices: stages whose output is returned, ascending, negative from the end.
        drop_path_rate: stochastic depth of the last block in [0, 1); the rates rise to it from 0 at the first.
        frozen_stages: -1 nothing, 0 the stem, n also the first n stages with their mergings and output norms.
        with_cp: recompute the blocks in the backward pass to save memory.
        attn_backend: see :func:`densevit.layers.attention`.
        init_cfg: mmengine's initialization config.

    Raises:
        ValueError: an argument outside its range, or an arch whose numbers do not fit together.

    Example:
        >>> model = SwinTransformer('T', window_size=7)
        >>> [tuple(m.shape) for m in model(torch.zeros(1, 3, 64, 100))]
        [(1, 96, 16, 25), (1, 192, 8, 13), (1, 384, 4, 7), (1, 768, 2, 4)]
    """

    # Section 3.3 of the paper; parameters of the official classifiers with window 7 and 1000 classes.
    ARCHS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        'T': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),  # 28.3 M
        'S': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),  # 49.6 M
        'B': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),  # 87.8 M
        'L': dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),  # 196.5 M
    }
    ARCH_DEFAULTS: ClassVar[Mapping[str, Any]] = dict(mlp_ratio=4.0)
    DENSE_ONLY: ClassVar[re.Pattern[str] | None] = re.compile(r'norm\d+\.')

    # What the second version exchanges, beside build_attention.
    block_type: ClassVar[type[TransformerBlock]] = TransformerBlock
    merging_type: ClassVar[type[nn.Module]] = PatchMerging

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'T',
        *,
        in_channels: int = 3,
        window_size: int = 7,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        attn_backend: str = 'auto',
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        numbers = self.resolve_arch(arch)
        depths, num_heads = numbers['depths'], numbers['num_heads']
        if len(depths) != len(num_heads):
            raise ValueError(f'arch: depths={depths} and num_heads={num_heads} must name the same number of stages')
        if not isinstance(window_size, int) or window_size < 1:
            raise ValueError(
                f'window_size={window_size!r}: give the side of the square window in tokens, a whole number from 1'
            )
        super().__init__(
            num_stages=len(depths),
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            attn_backend=attn_backend,
            init_cfg=init_cfg,
        )
        self.window_size = window_size
        self.window_rule: WindowRule = fixed_windows
        self.patch_embed = PatchEmbed(in_channels, numbers['embed_dims'], kernel_size=PATCH_SIZE)
        self.layers = nn.ModuleList()
        rates = iter(stochastic_depth_rates(drop_path_rate, sum(depths)))
        channels, strides = [], []
        last = self.out_indices[-1]  # a stage behind the last output would be computed for nothing and get no gradient
        for index in range(last + 1):
            dims, heads = numbers['embed_dims'] * 2**index, num_heads[index]
            if dims % heads:
                raise ValueError(f'arch: stage {index} has {dims} channels, which num_heads={heads} does not divide')
            blocks = [
                self.block_type(
                    dims,
                    self.build_attention(index, dims, heads),
                    Mlp(dims, int(dims * numbers['mlp_ratio'])),
                    drop_path_rate=next(rates),
                )
                for _ in range(depths[index])
            ]
            self.layers.append(SwinStage(blocks, self.merging_type(dims) if index < last else None))
            if index in self.out_indices:
                self.add_module(f'norm{index}', nn.LayerNorm(dims))
                channels.append(dims)
                strides.append(PATCH_SIZE * 2**index)
        self.out_channels, self.out_strides = tuple(channels), tuple(strides)
        self.apply(self.init_layer)
        self.freeze()

    def build_attention(self, stage_index: int, embed_dims: int, num_heads: int) -> WindowAttention:
        return TableWindowAttention(embed_dims, num_heads, self.window_size, self.attn_backend)

    def init_layer(self, module: nn.Module) -> None:
        """Linear layers and tables truncated normal with deviation 0.02, biases 0; the rest as torch has it."""
        if isinstance(module, nn.LayerNorm | nn.Conv2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, TableWindowAttention):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)

    def stages(self) -> Iterator[Sequence[nn.Module]]:
        yield [self.patch_embed]
        for index, stage in enumerate(self.layers):
            yield [stage, getattr(self, f'norm{index}')] if index in self.out_indices else [stage]

    def is_unbuilt(self, name: str) -> bool:
        part = re.match(r'(layers\.|norm)(\d+)\.(downsample\b)?', name)
        if not part:
            return False
        index, last = int(part[2]), len(self.layers) - 1
        if part[1] == 'norm':
            return not isinstance(getattr(self, f'norm{index}', None), nn.LayerNorm)
        return index > last or (index == last and bool(part[3]))

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """A bias table of another window, resized bicubically over its grid of distances.

        So does the official code (`utils.py`, ``load_pretrained``), with corners not aligned and nothing smoothed.
        """
        if not name.endswith('.relative_position_bias_table') or tensor.ndim != 2:
            return None
        own = self.get_parameter(name)  # ((2 w - 1) ** 2, h)
        before, after = math.isqrt(len(tensor)), math.isqrt(len(own))
        if not before or before**2 != len(tensor) or before == after or tensor.shape[1] != own.shape[1]:
            return None
        return resample_position(tensor[None], (before, before), (after, after), 'bicubic').flatten(0, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> maps (B, C_i, ceil(H / stride_i), ceil(W / stride_i)), one per ``out_indices``."""
        bottom, right = ((side + PATCH_SIZE - 1) // PATCH_SIZE * PATCH_SIZE - side for side in x.shape[-2:])
        x = self.patch_embed(F.pad(x, (0, right, 0, bottom)))  # (B, H / 4, W / 4, C)
        outs = []
        for index, stage in enumerate(self.layers):
            layouts = [self.layout(x, block_index) for block_index in range(min(2, len(stage.blocks)))]
            for block_index, block in enumerate(stage.blocks):
                x = self.run(block, x, layouts[block_index % 2])
            if index in self.out_indices:
                outs.append(contiguous_nchw(getattr(self, f'norm{index}')(x)))
            if stage.downsample is not None:
                x = stage.downsample(x)  # (B, H / 2, W / 2, 2C)
        return tuple(outs)

    def attention_layers(self) -> Iterator[tuple[str, Recordable, int]]:
        for index, stage in enumerate(self.layers):
            for number, block in enumerate(stage.blocks):
                yield f'stages.{index}.blocks.{number}', block.attn, PATCH_SIZE * 2**index

    def layout(self, x: Tensor, block_index: int) -> WindowLayout:
        """A block's windows, the same for all even blocks of a stage and for all odd ones."""
        size = x.shape[:3]
        return window_layout(size, *self.window_rule(size[1:], self.window_size, block_index), x)
