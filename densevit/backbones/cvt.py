"""CvT: a transformer in three stages whose tokens come from convolutions, and whose queries, keys and values do too.

Paper: Wu, Xiao, Codella, Liu, Dai, Yuan, Zhang, "CvT: Introducing Convolutions to Vision Transformers", ICCV 2021,
https://arxiv.org/abs/2103.15808.
Official code (classification only): https://github.com/microsoft/CvT, commit f851e68, `lib/models/cls_cvt.py`, MIT.
This is an independent implementation, equal to it in every output.

The paper's figure 2, as code::

    image -> stage (stride 4) -> stage (stride 8) -> stage (stride 16, with a class token) -> map
               |
      stage:   token embedding (overlapping convolution, LayerNorm) -> block -> block -> ...
                                                                         |
      block:   x + attention( LayerNorm(x) ),  then  x + MLP( LayerNorm(x) )
                   |
      attention:   q, k, v each:  3x3 depth-wise convolution -> BatchNorm -> linear;  k and v at half the resolution
      MLP:         linear to 4 C channels -> QuickGELU, x * sigmoid(1.702 x) -> linear

There is no position embedding: the zeros around the convolutions' inputs tell where a token stands. The class token
passes by the convolutions and joins q, k and v behind them.

Deviations from the official code, none of which changes a result that it can compute:

* Its norms compute in float32 and return the input's type. So do torch's for float16 and bfloat16; for float64 they
  stay in float64.
* Its classifier drops the batch axis of a single image; :class:`densevit.ImageClassifier` keeps it.
* The maps of the dense model are those that the next stage gets, without a norm of their own; the class token stays in
  the last stage, where the patches attend to it, and is dropped from the map.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import (
    Foldable,
    Mlp,
    PatchEmbed,
    TransformerBlock,
    attention,
    check_drop_path_rate,
    fold_batch_norm,
    merge_heads,
    split_heads,
    stochastic_depth_rates,
    to_nchw,
    to_nhwc,
)
from ..layers.activation import QuickGELU
from ..layers.attention_layer import GlobalAttention
from ..layers.attention_record import Recordable
from ..layers.convert import contiguous_nchw
from ..layers.linear import is_plain
from ..registry import MODELS
from .base import Backbone

__all__ = ['ConvAttention', 'ConvProjection', 'CvT', 'CvTStage']

# experiments/imagenet/cvt/*.yaml: the token embedding of the first stage, and of all others, in pixels or tokens.
FIRST_EMBEDDING = dict(kernel_size=7, stride=4, padding=2)
LATER_EMBEDDING = dict(kernel_size=3, stride=2, padding=1)
MLP_RATIO = 4


class ConvProjection(Foldable):
    """3x3 depth-wise convolution, then BatchNorm: (B, H, W, C) -> (B, H', W', C).

    H' = ceil(H / stride), W' likewise: the padding of 1 lets an odd last row count. Folded, it is one convolution.
    """

    def __init__(self, embed_dims: int, stride: int, norm_cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(embed_dims, embed_dims, 3, stride, padding=1, groups=embed_dims, bias=False)
        self.bn = build_norm_layer(dict(norm_cfg), embed_dims)[1]

    def forward(self, x: Tensor) -> Tensor:
        if self.is_folded and self._can_fold():
            weight, bias = self.derived(self._folded)
            return to_nhwc(F.conv2d(to_nchw(x), weight, bias, self.conv.stride, padding=1, groups=self.conv.groups))
        return to_nhwc(self.bn(self.conv(to_nchw(x))))

    def _can_fold(self) -> bool:
        is_fixed = isinstance(self.bn, _BatchNorm) and not self.bn.training and self.bn.running_mean is not None
        return is_fixed and is_plain(self.conv)

    def _folded(self) -> tuple[Tensor, Tensor]:
        return fold_batch_norm(self.conv.weight, None, self.bn)


class ConvAttention(Recordable):
    """Attention of all tokens over the tokens at half the resolution: (B, n + L, C) -> (B, n + L, C), L = H * W.

    Args:
        embed_dims: C, channels.
        num_heads: h, each of C / h channels.
        num_extra: n, how many tokens before the map's own pass by the convolutions: 1 class token or none.
        norm_cfg: the norm behind the convolutions, as mmcv's ``build_norm_layer`` takes it.
        attn_backend: see :func:`densevit.layers.attention`.

    Raises:
        ValueError: C is not a multiple of h.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, *, num_extra: int, norm_cfg: Mapping[str, Any], attn_backend: str
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims={embed_dims} is not a multiple of num_heads={num_heads}')
        self.num_heads = num_heads
        self.num_extra = num_extra
        self.attn_backend = attn_backend
        # of the whole width, not of a head's as elsewhere: so the official weights were trained
        self.scale = embed_dims**-0.5
        self.conv_proj_q = ConvProjection(embed_dims, 1, norm_cfg)
        self.conv_proj_k = ConvProjection(embed_dims, 2, norm_cfg)
        self.conv_proj_v = ConvProjection(embed_dims, 2, norm_cfg)
        self.proj_q = nn.Linear(embed_dims, embed_dims)
        self.proj_k = nn.Linear(embed_dims, embed_dims)
        self.proj_v = nn.Linear(embed_dims, embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``size`` is (H, W) of the map that the last L tokens are, row by row."""
        extra, patches = x[:, : self.num_extra], x[:, self.num_extra :]  # (B, n, C), (B, L, C)
        patches = patches.unflatten(1, size)  # (B, H, W, C)
        q_BhLd = self._heads(extra, self.conv_proj_q(patches), self.proj_q)  # of n + L tokens
        k_BhSd = self._heads(extra, self.conv_proj_k(patches), self.proj_k)  # of n + ceil(H / 2) * ceil(W / 2)
        v_BhSd = self._heads(extra, self.conv_proj_v(patches), self.proj_v)
        if self.recorder is not None:
            self.recorder(self._recorded(q_BhLd, k_BhSd, size))
        mixed = attention(q_BhLd, k_BhSd, v_BhSd, scale=self.scale, backend=self.attn_backend)
        return self.proj(merge_heads(mixed))

    def _recorded(self, q: Tensor, k: Tensor, size: tuple[int, int]) -> GlobalAttention:
        stride = self.conv_proj_k.conv.stride[0]
        reduced = (-(-size[0] // stride), -(-size[1] // stride))
        kind = f'convolutional attention to a map reduced by {stride}'
        return GlobalAttention(
            q, k, query_size=size, key_size=reduced, key_step=(stride, stride), scale=self.scale, kind=kind
        )

    def _heads(self, extra: Tensor, patches: Tensor, linear: nn.Linear) -> Tensor:
        """Tokens (B, n, C) and a map (B, H', W', C) -> (B, h, n + H' * W', d)."""
        tokens = patches.flatten(1, 2)
        if self.num_extra:
            tokens = torch.cat([extra, tokens], dim=1)
        return split_heads(linear(tokens), self.num_heads)


class CvTStage(nn.Module):
    """The parts of a stage: token embedding, class token if it has one, blocks. :class:`CvT` runs them.

    Args:
        in_channels: channels of the image or of the map before.
        embed_dims: C, channels of this stage.
        num_heads: heads of each attention.
        drop_path_rates: one per block: so many blocks there are.
        embedding: ``kernel_size``, ``stride`` and ``padding`` of the token embedding, in pixels or tokens of its input.
        has_cls_token: whether a class token joins the map's tokens.
        norm_cfg, attn_backend: see :class:`ConvAttention`.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        num_heads: int,
        drop_path_rates: Sequence[float],
        *,
        embedding: Mapping[str, int],
        has_cls_token: bool,
        norm_cfg: Mapping[str, Any],
        attn_backend: str,
    ) -> None:
        super().__init__()
        self.num_extra = int(has_cls_token)
        self.patch_embed = PatchEmbed(in_channels, embed_dims, **embedding)
        if has_cls_token:
            self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, embed_dims), std=0.02))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                embed_dims,
                ConvAttention(
                    embed_dims, num_heads, num_extra=self.num_extra, norm_cfg=norm_cfg, attn_backend=attn_backend
                ),
                Mlp(embed_dims, MLP_RATIO * embed_dims, activation=QuickGELU),
                drop_path_rate=rate,
            )
            for rate in drop_path_rates
        )


class _Recomputable(nn.Module):
    """A block for :func:`torch.utils.checkpoint.checkpoint`, which runs it again in the backward pass.

    The second time BatchNorm leaves its running statistics alone; else it would count every batch twice.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.has_run = False

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        norms = [m for m in self.block.modules() if isinstance(m, _BatchNorm)] if self.has_run else []
        self.has_run = True
        kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
        try:
            for norm in norms:
                # a copy of the counter, not none: SyncBatchNorm insists on one
                count = norm.num_batches_tracked
                norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()
            return self.block(x, *context)
        finally:  # torch ends a recomputation by an exception, as soon as it has what it needs
            for norm, momentum, count in kept:
                norm.momentum, norm.num_batches_tracked = momentum, count


@MODELS.register_module()
class CvT(Backbone):
    """CvT as a backbone with three scales, of strides 4, 8 and 16.

    The first token embedding has a kernel of 7 and a padding of 2, so H and W become floor((H + 1) / 4) and
    floor((W + 1) / 4), of at least 3 pixels: 63 to 66 give 16 tokens, 67 to 70 give 17. Each further stage rounds half
    of that up.

    BatchNorm in every projection of q, k and v needs a policy where few images stand in a batch:

    * Fine-tuning ImageNet weights with a few images per GPU, as in dense prediction: ``norm_eval=True``. Training uses
      the running statistics and leaves them as they are; an image's maps do not depend on its batch. The affine
      parameters still learn; ``norm_cfg=dict(type='BN', requires_grad=False)`` freezes those too.
    * Training from scratch, or with many images: the default. Where the tools run distributed on CUDA they turn BN
      into SyncBN; ``norm_cfg=dict(type='SyncBN')`` asks for it in any other trainer.

    Args:
        arch: a name in ``ARCHS`` or a dict with the same keys, one entry per stage: ``embed_dims`` (C), ``depths``
            (number of blocks) and ``num_heads``.
        in_channels: channels of the image.
        out_indices: stages whose output is returned, ascending, negative from the end. Later stages are not built.
        drop_path_rate: stochastic depth in [0, 1) of the last block of the last stage. Within that stage it rises
            linearly from 0; the other stages drop nothing, as in the official configs (0.1 for 13 and 21, 0.3 for W24).
        norm_cfg: the norm in the projections, as mmcv's ``build_norm_layer`` takes it; BN by default.
        norm_eval: keep BatchNorm in eval mode while training.
        frozen_stages: -1 nothing, 0 the first token embedding, n also all of the first n stages.
        with_cp: recompute the blocks in the backward pass to save memory.
        attn_backend: see :func:`densevit.layers.attention`.
        init_cfg: mmengine's initialization config; the official initialization by default.

    Raises:
        ValueError: an argument outside its range, or an arch whose lists differ in length or whose heads do not
            divide its channels.

    Example:
        >>> model = CvT('13')
        >>> [tuple(m.shape) for m in model(torch.zeros(1, 3, 64, 100))]
        [(1, 64, 16, 25), (1, 192, 8, 13), (1, 384, 4, 7)]
    """

    # experiments/imagenet/cvt/*.yaml of the official code; parameters of the classifier.
    ARCHS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        '13': dict(embed_dims=(64, 192, 384), depths=(1, 2, 10), num_heads=(1, 3, 6)),  # 20.0 M
        '21': dict(embed_dims=(64, 192, 384), depths=(1, 4, 16), num_heads=(1, 3, 6)),  # 31.6 M
        'W24': dict(embed_dims=(192, 768, 1024), depths=(2, 2, 20), num_heads=(3, 12, 16)),  # 277.2 M
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = '13',
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2),
        drop_path_rate: float = 0.0,
        norm_cfg: Mapping[str, Any] | None = None,
        norm_eval: bool = False,
        frozen_stages: int = -1,
        with_cp: bool = False,
        attn_backend: str = 'auto',
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        numbers = self.resolve_arch(arch)
        embed_dims, depths, num_heads = numbers['embed_dims'], numbers['depths'], numbers['num_heads']
        if not len(embed_dims) == len(depths) == len(num_heads):
            raise ValueError(
                f'arch of CvT: embed_dims={embed_dims}, depths={depths} and num_heads={num_heads} must have one entry '
                'per stage each'
            )
        check_drop_path_rate(drop_path_rate)
        if norm_cfg is not None and not (isinstance(norm_cfg, Mapping) and 'type' in norm_cfg):
            raise ValueError(f"norm_cfg={norm_cfg!r}: give a dict with the norm's type, such as dict(type='BN')")
        num_stages = len(embed_dims)
        super().__init__(
            num_stages=num_stages,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            attn_backend=attn_backend,
            init_cfg=init_cfg,
            norm_eval=norm_eval,
        )
        self.num_built = self.out_indices[-1] + 1  # a later stage would be computed for nothing and get no gradient
        self.has_class_token = self.num_built == num_stages
        channels, stride, strides = in_channels, 1, []
        for index in range(self.num_built):
            is_last = index == num_stages - 1
            embedding = FIRST_EMBEDDING if index == 0 else LATER_EMBEDDING
            stage = CvTStage(
                channels,
                embed_dims[index],
                num_heads[index],
                stochastic_depth_rates(drop_path_rate, depths[index]) if is_last else [0.0] * depths[index],
                embedding=embedding,
                has_cls_token=is_last,
                norm_cfg=dict(type='BN') if norm_cfg is None else norm_cfg,
                attn_backend=attn_backend,
            )
            self.add_module(f'stage{index}', stage)
            channels, stride = embed_dims[index], stride * embedding['stride']
            strides.append(stride)
        self.out_channels = tuple(embed_dims[index] for index in self.out_indices)
        self.out_strides = tuple(strides[index] for index in self.out_indices)
        self.freeze()

    def init_layer(self, module: nn.Module) -> None:
        """Linear layers and class token truncated normal with deviation 0.02, biases 0; the rest as torch has it."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, CvTStage) and module.num_extra:
            nn.init.trunc_normal_(module.cls_token, std=0.02)
        elif hasattr(module, 'reset_parameters'):
            module.reset_parameters()

    def _built(self) -> list[CvTStage]:
        return [getattr(self, f'stage{index}') for index in range(self.num_built)]

    def stages(self) -> Iterator[Sequence[nn.Module]]:
        first, *others = self._built()
        yield [first.patch_embed]
        yield [first.blocks]
        for stage in others:
            yield [stage]

    def is_unbuilt(self, name: str) -> bool:
        stage = re.match(r'stage(\d+)\.', name)
        return bool(stage) and int(stage[1]) >= self.num_built

    def attention_layers(self) -> Iterator[tuple[str, Recordable, int]]:
        stride = 1
        for index, stage in enumerate(self._built()):
            stride *= stage.patch_embed.proj.stride[0]
            for number, block in enumerate(stage.blocks):
                yield f'stages.{index}.blocks.{number}', block.attn, stride

    def run(self, block: nn.Module, x: Tensor, *context: Any) -> Tensor:
        # a compiler that recomputes writes the statistics once by itself
        recomputed = self.with_cp and not torch.compiler.is_compiling()
        return super().run(_Recomputable(block) if recomputed else block, x, *context)

    def _forward_stage(self, stage: CvTStage, x: Tensor) -> tuple[Tensor, Tensor]:
        """Image or map (B, C_in, H, W) -> map (B, C, H / s, W / s), and its class tokens (B, n, C)."""
        x = stage.patch_embed(x)  # (B, H / s, W / s, C)
        size = (x.shape[1], x.shape[2])
        x = x.flatten(1, 2)  # (B, L, C)
        if stage.num_extra:
            x = torch.cat([stage.cls_token.expand(len(x), -1, -1), x], dim=1)  # (B, 1 + L, C)
        for block in stage.blocks:
            x = self.run(block, x, size)
        extra, patches = x[:, : stage.num_extra], x[:, stage.num_extra :]
        return to_nchw(patches.unflatten(1, size)), extra

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> maps (B, C_i, H_i, W_i), one per ``out_indices``; H_0 = floor((H + 1) / 4)."""
        outs = []
        if min(x.shape[2:]) < 3:
            raise ValueError(f'images of {x.shape[2]} x {x.shape[3]} pixels are too small for CvT, which needs 3 x 3')
        for index, stage in enumerate(self._built()):
            x, _ = self._forward_stage(stage, x)  # (B, C_i, H_i, W_i)
            if index in self.out_indices:
                outs.append(contiguous_nchw(to_nhwc(x)))
        return tuple(outs)

    def class_token(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> the class token behind the last block (B, 1, C), without a norm.

        Raises:
            ValueError: the last stage, which has the token, is not built, as no output needs it.
        """
        if not self.has_class_token:
            raise ValueError(
                f'out_indices={self.out_indices}: the class token is in the last stage, which is then not built; '
                'name it too, as -1'
            )
        x = images
        for stage in self._built():
            x, token = self._forward_stage(stage, x)
        return token
