"""What a model saw, in numbers: classes with their probabilities, and the attention behind them.

Of a classifier with learned aggregation, and of a segmentor or detector with a class attention head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..classifiers.image_classifier import ImageClassifier
from ..layers.learned_aggregation import LearnedAggregation

__all__ = ['Explanation', 'ShownClass', 'explain_dense', 'explain_image', 'map_numbers']


@dataclass(frozen=True)
class ShownClass:
    """A class, and the attention map behind its logit.

    Attributes:
        index: of the class.
        probability: by softmax over all classes; of a segmentor or detector that the class is in the image.
        logit: before it.
        map: (h, w), one weight per patch.
        on_class_token: the rest of the row, which the class token gave itself; 0 where queries see patches only.
    """

    index: int
    probability: float
    logit: float
    map: np.ndarray
    on_class_token: float

    def numbers(self) -> dict[str, Any]:
        """What can be said without a picture."""
        return {'probability': self.probability, 'logit': self.logit, **map_numbers(self.map, self.on_class_token)}


@dataclass(frozen=True)
class Explanation:
    """Of one image.

    Attributes:
        top: the classes of the highest logits, best first.
        chosen: those that were asked for, in that order; otherwise as ``top``.
        per_class: whether each class has a map of its own; with a single query all classes have the same.
        extent: height and width, in pixels of the image, of the part that the maps cover from its upper left corner.
    """

    top: tuple[ShownClass, ...]
    chosen: tuple[ShownClass, ...]
    per_class: bool
    extent: tuple[float, float]


@torch.no_grad()
def explain_image(
    model: ImageClassifier, image: Tensor, top_k: int = 3, classes: Sequence[int] | None = None
) -> Explanation:
    """Classes and attention of one image, from one forward pass.

    Args:
        model: with a learned pool; it should be in eval mode.
        image: (3, H, W), normalised.
        top_k: how many classes; no more than there are.
        classes: indices of classes to be shown whatever their probability.

    Raises:
        TypeError: the model's pool has no attention of its own.
    """
    if not isinstance(model.pool, LearnedAggregation):
        raise TypeError(f"{type(model.pool).__name__} has no attention to show; take pool='learned' or 'learned_multi'")
    with model.record_attention('pool') as record:
        logits = model(image[None])
    probabilities = logits[0].double().softmax(dim=0)
    per_class = model.pool.num_classes is not None

    def shown(index: int) -> ShownClass:
        seen = record['pool'].map_of(index if per_class else 0)
        # the mean over the heads, of which the official models have one
        seen_map, rest = seen.map[0].double().mean(dim=0), seen.rest[0].double().mean()
        return ShownClass(
            index, probabilities[index].item(), logits[0, index].item(), seen_map.cpu().numpy(), rest.item()
        )

    best = logits[0].topk(min(top_k, logits.shape[1])).indices.tolist()
    top = tuple(shown(index) for index in best)
    chosen = top if classes is None else tuple(shown(index) for index in classes)
    return Explanation(top, chosen, per_class, record['pool'].key_extent)


@torch.no_grad()
def explain_dense(
    model: nn.Module, batch: Mapping[str, Any], top_k: int = 3, classes: Sequence[int] | None = None
) -> Explanation:
    """Classes and attention of one image, by a class attention head.

    Args:
        model: a segmentor or detector with a :class:`densevit.ClassAttentionHead`, in eval mode.
        batch: one image, as ``test_step`` takes it.
        top_k, classes: see :func:`explain_image`; the best are those that are most probably there.
    """
    seen = model.test_step(batch)[0].class_attention
    # float32 rounds what is above 1 - 2**-25 to 1, and what is below 2**-150 to 0, whose logits are infinite
    logits = seen.presence.double().clamp(2**-150, 1 - 2**-25).logit()

    def shown(index: int) -> ShownClass:
        return ShownClass(index, seen.presence[index].item(), logits[index].item(), seen.maps[index].cpu().numpy(), 0.0)

    top = tuple(shown(index) for index in seen.presence.topk(min(top_k, len(seen.presence))).indices.tolist())
    # the first patch is a whole one where there are several
    size = batch['inputs'][0].shape[1:]
    down, right = (
        ((edges[1] - edges[0]) * (len(edges) - 1)).item() / side * pixels
        for edges, side, pixels in zip((seen.rows, seen.columns), seen.ori_shape, size, strict=True)
    )
    return Explanation(top, top if classes is None else tuple(shown(index) for index in classes), True, (down, right))


def map_numbers(attention: np.ndarray, rest: float, rest_name: str = 'on_class_token') -> dict[str, Any]:
    """A map in numbers: its sum and the rest, which make one; its entropy in bits; where it is highest."""
    attention = attention.astype(np.float64)
    share = attention / max(attention.sum(), 1e-300)
    entropy = abs(float((share * np.log2(share.clip(min=1e-300))).sum()))
    row, column = np.unravel_index(attention.argmax(), attention.shape)
    return {
        'on_patches': float(attention.sum()),
        rest_name: rest,
        'entropy_bits': entropy,
        'even_attention_bits': math.log2(attention.size),
        'highest_weight': float(attention.max()),
        'highest_patch': [int(row), int(column)],
    }
