"""How exact the fast paths are: the difference in float64, and the rounding error in float32 beside the peer's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..errors import UserError, did_you_mean
from ..inference.folding import fold
from .cases import CASES, EXACT, WINOGRAD, winograd_twin
from .measure import compare
from .models import Work, build, fold_peer, parse_spec
from .peers import peers_of

__all__ = ['ACCURATE', 'FLOAT64', 'LIMITS', 'accuracy']

# In float64 the largest difference to the peer, relative to the largest output.
FLOAT64 = 1e-9
# In float32 the largest error against float64, by the peer's own; median over the seeds.
LIMITS = {EXACT: 1.5, WINOGRAD: 2.5}
# The cases with one clear peer, which computes the same, and the size of the images.
ACCURATE = {
    'uper_swin_t': ('mmseg', (96, 128)),
    'uper_s60': ('mmseg', (96, 128)),
    'swin_t': ('mmseg', (160, 192)),
    'swin_v2_t': ('torchvision', (288, 320)),
    'pvt_small': ('mmdet', (160, 192)),
    'pvt_v2_b2': ('mmdet', (160, 192)),
    'cvt_13': ('transformers', (160, 192)),
    's60': ('plain', (160, 192)),
}


def accuracy(name: str, *, seeds: int = 5, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Compare a case's model with its peer in both precisions.

    Args:
        name: a key of ``ACCURATE``.
        seeds: of the weights; the median counts.
        size: of the images, instead of the one that is set for the case.

    Raises:
        UserError: there is no such case.
    """
    if name not in ACCURATE:
        raise UserError(
            f'--accuracy has no case {name!r}{did_you_mean(name, ACCURATE) or "."} Valid are {", ".join(ACCURATE)}.'
        )
    package, default = ACCURATE[name]
    case, size = CASES[name], size or default
    variants = (EXACT, WINOGRAD) if WINOGRAD in case.goals else (EXACT,)
    found: dict[str, list[tuple[float, float, float]]] = {variant: [] for variant in variants}
    for seed in range(seeds):
        spec = parse_spec(case.options['model']).without_dropping().with_fast_parts()
        models = {EXACT: build(spec, seed=seed)}
        if WINOGRAD in variants:
            models[WINOGRAD] = winograd_twin(case, models[EXACT])
        peer = peers_of(package, spec, models[EXACT], size)[0].model
        work = {dtype: Work(spec, size, dtype=dtype) for dtype in ('float32', 'float64')}
        theirs = {dtype: _outputs(work[dtype], copy.deepcopy(peer), fold_peer) for dtype in work}
        own = _error(theirs['float32'], theirs['float64'])
        for variant, model in models.items():
            ours = {dtype: _outputs(work[dtype], copy.deepcopy(model), fold) for dtype in work}
            exact = compare(ours['float64'], theirs['float64'])
            if exact.mismatch:
                raise UserError(f'{name}: {exact.mismatch}')
            found[variant].append((exact.relative, _error(ours['float32'], theirs['float64']), own))
    rows = []
    for variant, numbers in found.items():
        error64 = max(number[0] for number in numbers)
        ratio = float(np.median([ours / own for _, ours, own in numbers]))
        rows.append({
            'label': variant, 'float64': error64, 'float32': float(np.median([number[1] for number in numbers])),
            'peer_float32': float(np.median([number[2] for number in numbers])), 'ratio': ratio,
            'limit': LIMITS[variant], 'within': error64 <= FLOAT64 and ratio <= LIMITS[variant],
        })  # fmt: skip
    return {'model': name, 'peer': package, 'size': list(size), 'seeds': seeds, 'rows': rows}


def _outputs(work: Work, model: nn.Module, folded: Callable[[nn.Module], nn.Module]) -> dict[str, Tensor]:
    """As float64, without label maps; folded in the precision of the work."""
    model = folded(work.prepared(model))
    found = work.outputs(model)
    return {name: tensor.double() for name, tensor in found.items() if tensor.is_floating_point()}


def _error(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """The largest difference relative to the largest output."""
    return compare(exact, found).relative
