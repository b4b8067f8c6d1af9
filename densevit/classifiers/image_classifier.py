"""A backbone as an image classifier: the model that official ImageNet weights fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..backbones.base import Backbone
from ..backbones.cvt import CvT
from ..backbones.patchconvnet import PatchConvNet
from ..backbones.pvt import PyramidVisionTransformer, PyramidVisionTransformerV2
from ..backbones.swin import SwinTransformer
from ..backbones.swin_v2 import SwinTransformerV2
from ..errors import did_you_mean
from ..layers.attention_record import AttentionRecord, Recordable, record_attention
from ..layers.learned_aggregation import Aggregate, LearnedAggregation, PerClassLinear
from ..registry import MODELS
from .pools import AveragePool, CarriedClassToken, LateClassToken
from .swin import follow_classifier_rules

__all__ = ['ImageClassifier', 'LearnedAggregation', 'PerClassLinear']

# layers/ knows no registry, so the aggregation becomes a part of configs here.
MODELS.register_module(module=LearnedAggregation)


class Recipe(NamedTuple):
    """How a family's official classifier reads its backbone: the pool, and the eps of its last norm."""

    pool: str
    norm_eps: float | None


# None as eps: the backbone norms its maps itself.
RECIPES: dict[type[Backbone], Recipe] = {
    PatchConvNet: Recipe('learned', 1e-6),
    PyramidVisionTransformer: Recipe('cls_token', 1e-6),
    PyramidVisionTransformerV2: Recipe('average', None),
    SwinTransformer: Recipe('average', 1e-5),
    SwinTransformerV2: Recipe('average', 1e-5),
    CvT: Recipe('cls_token', 1e-5),
}
POOLS = ('learned', 'learned_multi', 'average', 'cls_token')


@MODELS.register_module()
class ImageClassifier(BaseModule):
    """Backbone, aggregation of its last map, linear head.

    What only classification models do is done here, to the backbone too: PVT's class token joins the last stage, and
    Swin follows the rules of its classification code, see :func:`densevit.classifiers.swin.follow_classifier_rules`.

    Args:
        backbone: a backbone or its config; the last of its maps is aggregated.
        pool: ``'learned'``, one attention query per image; ``'learned_multi'``, one query per class, whose vector k
            alone makes logit k (PatchConvNet's *multi* models); ``'average'``, the mean over the map; ``'cls_token'``,
            a token that goes through the last stage (PVT, CvT). By default what the family's official classifier has.
        num_classes: number of logits.
        init_cfg: mmengine's initialization config.

    Raises:
        ValueError: an unknown ``pool``, or ``'cls_token'`` for a backbone without one.

    Example:
        >>> model = ImageClassifier(dict(type='densevit.PatchConvNet', arch='S60'))
        >>> sum(p.numel() for p in model.parameters())
        25231096
    """

    def __init__(
        self,
        backbone: nn.Module | Mapping[str, Any],
        pool: str | None = None,
        num_classes: int = 1000,
        *,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.backbone = backbone if isinstance(backbone, nn.Module) else _build(backbone)
        known = (RECIPES[kind] for kind in type(self.backbone).__mro__ if kind in RECIPES)
        recipe = next(known, Recipe('average', 1e-6))
        pool = recipe.pool if pool is None else pool
        if pool not in POOLS:
            raise ValueError(
                f'pool={pool!r} is unknown{did_you_mean(str(pool), POOLS)}; valid are {", ".join(map(repr, POOLS))}'
            )
        if isinstance(self.backbone, SwinTransformer):
            follow_classifier_rules(self.backbone)
        embed_dims = self.backbone.out_channels[-1]
        if pool.startswith('learned'):
            self.pool: nn.Module = LearnedAggregation(
                embed_dims,
                num_classes if pool == 'learned_multi' else None,
                layer_scale_init=getattr(self.backbone, 'layer_scale_init', 1e-4),
            )
        elif pool == 'average':
            self.pool = AveragePool(embed_dims, recipe.norm_eps)
        elif isinstance(self.backbone, PyramidVisionTransformer):
            self.pool = LateClassToken(embed_dims, recipe.norm_eps)
        elif isinstance(self.backbone, CvT):
            self.pool = CarriedClassToken(embed_dims, recipe.norm_eps)
        else:
            raise ValueError(
                f"pool='cls_token': {type(self.backbone).__name__} has no class token; PVT and CvT have one"
            )
        if pool == 'learned_multi':
            self.head: nn.Module = PerClassLinear(embed_dims, num_classes)
        else:
            self.head = nn.Linear(embed_dims, num_classes)
            _init_layer(self.head)

    def init_weights(self) -> None:
        """Initialize pool and head as the official codes do, the backbone in its own way, then by ``init_cfg``."""
        if not self.is_init:
            for part in (self.pool, self.head):
                part.apply(_init_layer)
        super().init_weights()

    def _vectors(self, images: Tensor) -> Tensor:
        if isinstance(self.pool, LateClassToken | CarriedClassToken):
            return self.pool(self.backbone, images)
        return self.pool(self.backbone(images)[-1])

    def _logits(self, vectors: Tensor) -> Tensor:
        return self.head(vectors if isinstance(self.head, PerClassLinear) else vectors[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, K)."""
        return self._logits(self._vectors(x))

    def explain(self, x: Tensor) -> tuple[Tensor, Aggregate]:
        """Logits (B, K), and the attention that made them, from one forward pass.

        Raises:
            TypeError: the pool is not a learned one and has no attention of its own.
        """
        if not isinstance(self.pool, LearnedAggregation):
            raise TypeError(
                f"{type(self.pool).__name__} has no attention to show; take pool='learned' or 'learned_multi'"
            )
        aggregate = self.pool(self.backbone(x)[-1], need_weights=True)
        return self._logits(aggregate.vectors), aggregate

    def attention_layers(self) -> Iterator[tuple[str, Recordable, int]]:
        """Those of the backbone, and ``'pool'`` for a learned aggregation."""
        if isinstance(self.backbone, Backbone):
            yield from self.backbone.attention_layers()
        if isinstance(self.pool, LearnedAggregation):
            yield 'pool', self.pool.attn, self.backbone.out_strides[-1]

    def record_attention(self, layers: str | Sequence[str] = '*') -> AbstractContextManager[AttentionRecord]:
        """As :meth:`Backbone.record_attention`, with the attention that makes the logits."""
        return record_attention(self.attention_layers(), layers, owner=type(self).__name__)


def _init_layer(module: nn.Module) -> None:
    """Linear layers and class tokens truncated normal with deviation 0.02, biases 0; norms as torch has them."""
    if isinstance(module, nn.Linear | PerClassLinear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, LateClassToken):
        nn.init.trunc_normal_(module.cls_token, std=0.02)
    elif hasattr(module, 'reset_parameters'):
        module.reset_parameters()


def _build(config: Mapping[str, Any]) -> nn.Module:
    """A backbone from its config; one of ours gives its last map only, unless the config says otherwise."""
    kind = config.get('type')
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    ours = isinstance(kind, type) and issubclass(kind, Backbone)
    return MODELS.build({'out_indices': (-1,), **config} if ours else dict(config))
