"""Layers of timm that are wrong for images of other sizes than their model is built for, or after loading, mended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers.norm_act import SyncBatchNormAct
from timm.models.efficientvit_msra import CascadedGroupAttention
from timm.models.mvitv2 import MultiScaleAttention, cal_rel_pos_type, reshape_post_pool, reshape_pre_pool
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2, SwinTransformerV2Block
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock
from timm.models.tiny_vit import Attention as TinyVitAttention
from torch import Tensor, nn

from .timm_tables import interpolate_distances

__all__ = ['mend', 'restore_activations']


class _Swin(SwinTransformerBlock):
    """Pads before it shifts, as Swin's dense code.

    timm shifts and then pads, and its mask takes the zeros to be in front of what the shift has brought round: windows
    that hold both ends of a row or column attend from one to the other.
    """

    def _attn(self, x: Tensor) -> Tensor:
        return super()._attn(_fill_windows(x, self.window_size))[:, : x.shape[1], : x.shape[2]]


class _SwinV2(SwinTransformerV2Block):
    """See :class:`_Swin`."""

    def _attn(self, x: Tensor) -> Tensor:
        return super()._attn(_fill_windows(x, self.window_size))[:, : x.shape[1], : x.shape[2]]


class _SwinV2Cr(SwinTransformerV2CrBlock):
    """See :class:`_Swin`."""

    def _shifted_window_attn(self, x: Tensor) -> Tensor:
        return super()._shifted_window_attn(_fill_windows(x, self.window_size))[:, : x.shape[1], : x.shape[2]]


class _MViTv2(MultiScaleAttention):
    """Resamples its relative positions for the map at hand, linearly, as MViTv2's own code does.

    timm reads the rows of a table for 224 x 224 pixels: of smaller maps those of the wrong distances, of larger ones
    rows that the table has not.
    """

    def forward(self, x: Tensor, feat_size: Sequence[int]) -> tuple[Tensor, Sequence[int]]:
        """Tokens (B, N, C) of a map of ``feat_size`` to tokens of a pooled map, and the size of that."""
        batch, tokens = x.shape[:2]
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, h, N, d)
        q, q_size = self._pooled(q, feat_size, self.pool_q, self.norm_q)
        k, k_size = self._pooled(k, feat_size, self.pool_k, self.norm_k)
        v, _ = self._pooled(v, feat_size, self.pool_v, self.norm_v)
        logits = (q * self.scale) @ k.transpose(-2, -1)
        if self.rel_pos_type == 'spatial':
            tables = (
                interpolate_distances(table, 2 * max(sides) - 1)
                for table, *sides in zip((self.rel_pos_h, self.rel_pos_w), q_size, k_size, strict=True)
            )
            logits = cal_rel_pos_type(logits, q, self.has_cls_token, q_size, k_size, *tables)
        x = logits.softmax(dim=-1) @ v
        if self.residual_pooling:
            x = x + q
        return self.proj(x.transpose(1, 2).reshape(batch, -1, self.dim_out)), q_size

    def _pooled(
        self, x: Tensor, size: Sequence[int], pool: nn.Module | None, norm: nn.Module | None
    ) -> tuple[Tensor, Sequence[int]]:
        if pool is not None:
            x, cls_token = reshape_pre_pool(x, size, self.has_cls_token)
            x, size = reshape_post_pool(pool(x), self.num_heads, cls_token)
        return x if norm is None else norm(x), size


class _EfficientVit(CascadedGroupAttention):
    """Takes its attention biases from the parameter each time.

    timm keeps those of its first image in eval mode, whatever is loaded or averaged into the parameter afterwards.
    """

    def get_attention_biases(self, device: torch.device) -> Tensor:
        return self.attention_biases[:, self.attention_bias_idxs]


class _TinyVit(TinyVitAttention):
    """See :class:`_EfficientVit`."""

    def get_attention_biases(self, device: torch.device) -> Tensor:
        return self.attention_biases[:, self.attention_bias_idxs]


# By timm's class; none adds a parameter or a buffer, so that an instance can change from one to the other.
_MENDED: dict[type[nn.Module], type[nn.Module]] = {
    cls.__bases__[0]: cls for cls in (_Swin, _SwinV2, _SwinV2Cr, _MViTv2, _EfficientVit, _TinyVit)
}


def mend(model: nn.Module) -> None:
    """Give the layers of ``model`` that need it the methods of the classes above."""
    for module in model.modules():
        module.__class__ = _MENDED.get(type(module), type(module))
    if isinstance(model, SwinTransformerV2):
        _keep_distances(model)


def restore_activations(model: nn.Module) -> None:
    """Let norms that SyncBN has taken the place of apply their activations again.

    timm's ``BatchNormAct2d`` has its activation inside. torch's and mmengine's conversions make a SyncBatchNorm of it
    that has the activation as a child and never calls it (``huggingface/pytorch-image-models``, issue 1254).
    """
    for module in model.modules():
        if type(module) is nn.SyncBatchNorm and hasattr(module, 'act'):
            module.__class__ = SyncBatchNormAct


def _keep_distances(model: SwinTransformerV2) -> None:
    """Measure distances as the model learned them, in its last stage too.

    SwinV2's positions are functions of the distance in windows. Models with windows of 16 learned theirs on maps of
    8 x 8 in the last stage, hence in windows of 8; for dense use they are 16 there, and the distances twice as far.
    """
    side = model.pretrained_cfg['input_size'][-1]
    for stage, info in zip(model.layers, model.feature_info, strict=True):
        learned = side // info['reduction']
        for block in stage.blocks:
            if learned < min(block.window_size) and not any(block.attn.pretrained_window_size):
                block.attn.pretrained_window_size = (learned, learned)
                block.attn.init_non_persistent_buffers()


def _fill_windows(x: Tensor, window_size: Sequence[int]) -> Tensor:
    """A map (B, H, W, C), zero-padded below and right until windows fill it."""
    bottom, right = (-side % window for side, window in zip(x.shape[1:3], window_size, strict=True))
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x
