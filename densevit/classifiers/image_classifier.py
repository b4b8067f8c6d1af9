"""A backbone as an image classifier: the model that official ImageNet weights fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers.learned_aggregation import Aggregate, LearnedAggregation
from ..registry import MODELS

__all__ = ['AveragePool', 'ImageClassifier', 'LearnedAggregation', 'PerClassLinear']

# layers/ knows no registry, so the aggregation becomes a part of configs here.
MODELS.register_module(module=LearnedAggregation)


class AveragePool(nn.Module):
    """LayerNorm over channels, then the mean over the map: (B, C, H, W) -> (B, 1, C)."""

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(2).transpose(1, 2)).mean(dim=1, keepdim=True)


class PerClassLinear(nn.Module):
    """One linear unit per class, which reads the vector of its class only: (B, K, C) -> (B, K)."""

    def __init__(self, embed_dims: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, embed_dims))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, vectors: Tensor) -> Tensor:
        return (vectors * self.weight).sum(dim=-1) + self.bias


@MODELS.register_module()
class ImageClassifier(BaseModule):
    """Backbone, aggregation of its last map, linear head.

    Args:
        backbone: a backbone or its config; the last of its maps is aggregated.
        pool: ``'learned'``, one attention query per image; ``'learned_multi'``, one query per class, whose vector k
            alone makes logit k (PatchConvNet's *multi* models); ``'average'``, the mean over the map.
        num_classes: number of logits.
        init_cfg: mmengine's initialization config.

    Raises:
        ValueError: an unknown ``pool``.

    Example:
        >>> model = ImageClassifier(dict(type='densevit.PatchConvNet', arch='S60'))
        >>> sum(p.numel() for p in model.parameters())
        25231096
    """

    def __init__(
        self,
        backbone: nn.Module | Mapping[str, Any],
        pool: str = 'learned',
        num_classes: int = 1000,
        *,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.backbone = backbone if isinstance(backbone, nn.Module) else MODELS.build(dict(backbone))
        embed_dims = self.backbone.out_channels[-1]
        layer_scale_init = getattr(self.backbone, 'layer_scale_init', 1e-4)
        if pool == 'learned':
            self.pool = LearnedAggregation(embed_dims, layer_scale_init=layer_scale_init)
        elif pool == 'learned_multi':
            self.pool = LearnedAggregation(embed_dims, num_classes, layer_scale_init=layer_scale_init)
        elif pool == 'average':
            self.pool = AveragePool(embed_dims)
        else:
            raise ValueError(f"pool={pool!r} is unknown; valid are 'learned', 'learned_multi' and 'average'")
        if pool == 'learned_multi':
            self.head: nn.Module = PerClassLinear(embed_dims, num_classes)
        else:
            self.head = nn.Linear(embed_dims, num_classes)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def _logits(self, vectors: Tensor) -> Tensor:
        return self.head(vectors if isinstance(self.head, PerClassLinear) else vectors[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, K)."""
        return self._logits(self.pool(self.backbone(x)[-1]))

    def explain(self, x: Tensor) -> tuple[Tensor, Aggregate]:
        """Logits (B, K), and the attention that made them, from one forward pass.

        Raises:
            TypeError: ``pool='average'`` looks at everything alike and has no attention.
        """
        if not isinstance(self.pool, LearnedAggregation):
            raise TypeError("pool='average' has no attention to show; take pool='learned' or 'learned_multi'")
        aggregate = self.pool(self.backbone(x)[-1], need_weights=True)
        return self._logits(aggregate.vectors), aggregate
