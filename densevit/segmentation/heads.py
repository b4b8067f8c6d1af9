"""mmsegmentation's heads with a loss that needs little memory; UPerHead has a file of its own."""

from __future__ import annotations

from mmseg.models.decode_heads import FCNHead as MmsegFCNHead
from mmseg.models.decode_heads import FPNHead as MmsegFPNHead

from ..registry import MODELS
from .lean_loss import LeanLoss

__all__ = ['FCNHead', 'FPNHead']


@MODELS.register_module()
class FCNHead(LeanLoss, MmsegFCNHead):
    """mmsegmentation's ``FCNHead``, the same but for :class:`LeanLoss`: convolutions and a classifier."""


@MODELS.register_module()
class FPNHead(LeanLoss, MmsegFPNHead):
    """mmsegmentation's ``FPNHead``, the same but for :class:`LeanLoss`: Semantic FPN."""
