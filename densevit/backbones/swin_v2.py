"""Swin Transformer V2: the windows and the pyramid of Swin, with attention and norms that scale up.

Paper: Liu, Hu, Lin, Yao, Xie, Wei, Ning, Cao, Zhang, Dong, Wei, Guo, "Swin Transformer V2: Scaling Up Capacity and
Resolution", 2021, https://arxiv.org/abs/2111.09883.
Official code (classification only): https://github.com/microsoft/Swin-Transformer, commit f82860b,
`models/swin_transformer_v2.py`, MIT. This is an independent implementation. Stage loop, windows, padding and outputs
are those of :mod:`densevit.backbones.swin`; here stands what the second version exchanges:

* attention by the cosine of query and key, times a learned factor per head, instead of their scaled product;
* a small network that computes the position bias from the logarithm of the distance, instead of a table, so that
  windows of another size can be used;
* blocks and mergings with the norm behind instead of before.

Deviations from the official code, none of which changes a result that it can compute:

* Those of the first version. The official code cannot pad; here maps are padded as in the dense code of the first
  version, before the attention, and no window ever shrinks.
* ``logit_scale`` has shape (h,), officially (h, 1, 1); :mod:`densevit.checkpoints.swin` reshapes it.
* A window of one token has distance 0 to itself. The official formula divides 0 by 0 there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.errors import CheckpointError
from ..layers import TransformerBlock
from ..registry import MODELS
from .swin import SwinTransformer, WindowAttention, fixed_windows, two_by_two

__all__ = ['CosineWindowAttention', 'PostNormBlock', 'PostNormMerging', 'SwinTransformerV2']


class CosineWindowAttention(WindowAttention):
    """Window attention by cosine similarity with a continuous position bias (sections 3.3 and 3.4 of the paper).

    Args:
        embed_dims: C, channels.
        num_heads: heads, each of C / num_heads channels.
        pretrained_window_size: side of the window in which distances are measured, in tokens; 0 stands for the window
            of the forward pass.
        attn_backend: see :func:`densevit.layers.attention`.
    """

    scale = 1.0  # queries bring their own

    def __init__(
        self, embed_dims: int, num_heads: int, pretrained_window_size: int = 0, attn_backend: str = 'auto'
    ) -> None:
        super().__init__(embed_dims, num_heads, attn_backend, qkv_bias=False)
        self.pretrained_window_size = pretrained_window_size
        self.q_bias = nn.Parameter(torch.zeros(embed_dims))
        self.v_bias = nn.Parameter(torch.zeros(embed_dims))  # keys have none
        self.logit_scale = nn.Parameter(torch.full((num_heads,), math.log(10)))  # a logarithm
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, num_heads, bias=False))

    def project(self, tokens: Tensor) -> Tensor:
        qkv = F.linear(tokens, self.qkv.weight, self.derived(self.qkv_bias)).unflatten(-1, (3, self.num_heads, -1))
        q_and_k, v = qkv.split((2, 1), dim=-3)
        factors = self.derived(self.factors)
        # in float32 at least: in half precision 1e-12 is 0
        norm = q_and_k.to(torch.promote_types(qkv.dtype, torch.float32)).norm(dim=-1, keepdim=True)
        if torch.is_grad_enabled():  # a padded key is 0, and so shall be its gradient
            factors = factors * torch.where(norm > 0, 1 / norm.clamp_min(1e-12), 0)
            return torch.cat([(q_and_k * factors).to(v.dtype), v], dim=-3)
        q_and_k *= factors / norm.clamp_min_(1e-12)  # in the memory of qkv
        return qkv

    def qkv_bias(self) -> Tensor:
        """(3C): keys have none."""
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def factors(self) -> Tensor:
        """What normed queries and keys of each head are multiplied with, (2, h, 1)."""
        logit = self.logit_scale.clamp(max=math.log(100)).exp()
        return torch.stack([logit, torch.ones_like(logit)])[..., None]

    def position_table(self, side: int) -> Tensor:
        """The network's bias, between 0 and 16, for every distance: (2 side - 1, 2 side - 1, h)."""
        # In float32 for every dtype of the model, as the official code: its float64 results hang on the rounding.
        weight = self.cpb_mlp[0].weight
        distances = log_distances(side, self.pretrained_window_size or side, weight.device)
        return 16 * self.cpb_mlp(distances.to(weight.dtype)).sigmoid()


def log_distances(side: int, measured_in: int, device: torch.device | None = None) -> Tensor:
    """Equation 4 of the paper: for every distance inside a window its logarithm, by row and by column.

    Args:
        side: side of the window, in tokens.
        measured_in: side of the window whose farthest distance counts 8, in tokens.
        device: where to.

    Returns:
        (2 side - 1, 2 side - 1, 2), float32.
    """
    steps = torch.arange(1 - side, side, dtype=torch.float32, device=device)
    steps = steps / max(measured_in - 1, 1) * 8
    steps = steps.sign() * (steps.abs() + 1).log2() / math.log2(8)  # (2 side - 1)
    return torch.stack(torch.meshgrid(steps, steps, indexing='ij'), dim=-1)


class PostNormBlock(TransformerBlock):
    """Two residual branches, each with its norm behind: x + norm1(attn(x)), then x + norm2(mlp(x)).

    Section 3.2 of the paper; the norms begin at zero, so a block begins as the identity.
    """

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """(B, ..., C) -> (B, ..., C); ``context`` goes to the attention."""
        x = x + self.drop_path(self.norm1(self.attn(x, *context)))
        return self.add_mlp(x, self.mlp, self.norm2)


class PostNormMerging(nn.Module):
    """Half the height and width, twice the channels: (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2C)."""

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * embed_dims, 2 * embed_dims, bias=False)
        self.norm = nn.LayerNorm(2 * embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(two_by_two(x)))


@MODELS.register_module()
class SwinTransformerV2(SwinTransformer):
    """Swin Transformer V2 as a backbone of four scales.

    Channels, strides and padding are those of :class:`SwinTransformer`; the numbers of parameters do not depend on the
    window.

    The official recipes decay neither the network of the position bias, nor ``logit_scale``, nor the norms::

        paramwise_cfg=dict(custom_keys={
            'cpb_mlp': dict(decay_mult=0.0), 'logit_scale': dict(decay_mult=0.0), 'norm': dict(decay_mult=0.0)})

    Args:
        arch: a name in ``ARCHS`` or a dict with ``embed_dims`` (C), ``depths`` and ``num_heads`` (both per stage) and
            optionally ``mlp_ratio``.
        in_channels: channels of the image.
        window_size: side of the attention window in tokens, in every stage.
        pretrained_window_sizes: per stage, or one for all: the side of the window in which the position network learned
            its distances; 0 stands for the window itself. Set them where the weights come from other windows:
            (12, 12, 12, 6) for the official weights named 12to16 and 12to24. The official classifiers with window 16
            had 8 in the last stage, as their map was no larger, so for dense use their weights mean (16, 16, 16, 8).
        out_indices: stages whose output is returned, ascending, negative from the end.
        drop_path_rate: stochastic depth of the last block in [0, 1); the rates rise to it from 0 at the first.
        frozen_stages: -1 nothing, 0 the stem, n also the first n stages with their mergings and output norms.
        with_cp: recompute the blocks in the backward pass to save memory.
        attn_backend: see :func:`densevit.layers.attention`.
        init_cfg: mmengine's initialization config.

    Raises:
        ValueError: an argument outside its range, or an arch whose numbers do not fit together.

    Example:
        >>> model = SwinTransformerV2('T', window_size=8)
        >>> [tuple(m.shape) for m in model(torch.zeros(1, 3, 64, 100))]
        [(1, 96, 16, 25), (1, 192, 8, 13), (1, 384, 4, 7), (1, 768, 2, 4)]
    """

    block_type = PostNormBlock
    merging_type = PostNormMerging

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'T',
        *,
        in_channels: int = 3,
        window_size: int = 8,
        pretrained_window_sizes: int | Sequence[int] = 0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        attn_backend: str = 'auto',
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        num_stages = len(self.resolve_arch(arch)['depths'])
        given = pretrained_window_sizes
        sizes = (given,) * num_stages if isinstance(given, int) else tuple(given)
        if len(sizes) != num_stages or not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise ValueError(
                f'pretrained_window_sizes={given!r}: give one side in tokens per stage, {num_stages} in all, '
                'or 0 where it is window_size'
            )
        self.pretrained_window_sizes = sizes  # before the rest, which asks for the attention of every stage
        super().__init__(
            arch,
            in_channels=in_channels,
            window_size=window_size,
            out_indices=out_indices,
            drop_path_rate=drop_path_rate,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            attn_backend=attn_backend,
            init_cfg=init_cfg,
        )

    def build_attention(self, stage_index: int, embed_dims: int, num_heads: int) -> CosineWindowAttention:
        size = self.pretrained_window_sizes[stage_index]
        return CosineWindowAttention(embed_dims, num_heads, size, self.attn_backend)

    def check_derived(self, tables: Mapping[str, Tensor]) -> None:
        """Refuse weights whose position networks measure distances in other windows than this model's.

        Parameters do not tell the windows, but the tables of coordinates do that some files have beside them.
        """
        windows = {}  # per stage: the side in tokens, and the side in which distances are measured
        for index in range(len(self.pretrained_window_sizes)):
            table = tables.get(f'layers.{index}.blocks.0.attn.relative_coords_table')  # (1, 2 w - 1, 2 w - 1, 2)
            found = None if table is None else _windows_of(table)
            if found:
                windows[index] = found
        if not windows:
            return
        full = max(side for side, _ in windows.values())
        theirs, ours = [], []
        for index, (side, measured_in) in windows.items():
            # the side of a small map, which a classifier takes too
            shrunk = side < full and self.window_rule is not fixed_windows
            theirs.append(measured_in)
            ours.append(self.pretrained_window_sizes[index] or (side if shrunk else self.window_size))
        built = sum(index < len(self.layers) for index in windows)
        if theirs[:built] != ours[:built]:
            raise CheckpointError(
                f'the checkpoint, of window_size={full}, measures distances in windows of {tuple(theirs)} tokens, '
                f'stage by stage, and this {type(self).__name__} in windows of {tuple(ours)}; give it '
                f'pretrained_window_sizes={tuple(theirs)}.'
            )

    def init_layer(self, module: nn.Module) -> None:
        """As the first version; the norms of the blocks 0, ``logit_scale`` ln 10, biases of queries and values 0."""
        super().init_layer(module)
        if isinstance(module, PostNormBlock):
            for parameter in (*module.norm1.parameters(), *module.norm2.parameters()):
                nn.init.zeros_(parameter)
        elif isinstance(module, CosineWindowAttention):
            nn.init.constant_(module.logit_scale, math.log(10))
            nn.init.zeros_(module.q_bias)
            nn.init.zeros_(module.v_bias)


def _windows_of(table: Tensor) -> tuple[int, int] | None:
    """From a table of coordinates: the side of the window, and the one in which distances are measured, in tokens.

    None where it is no such table; nothing hangs on its values then, as none of them is loaded.
    """
    if table.is_meta or table.ndim != 4 or table.shape[1] < 3 or not table.isfinite().all() or not table.any():
        return None
    side = (table.shape[1] + 1) // 2
    farthest = (2 ** (3 * table.double().abs().max().item()) - 1) / 8  # in units of what is measured in
    measured_in = round((side - 1) / farthest) + 1
    expected = log_distances(side, measured_in)
    if table.shape[1:] != expected.shape or not torch.allclose(table[0].float().cpu(), expected, atol=1e-2):
        return None
    return side, measured_in
