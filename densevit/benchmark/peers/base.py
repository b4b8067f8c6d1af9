"""What the packages' modules share."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...checkpoints import export_weights
from ...registry import import_part

__all__ = [
    'Absent', 'Maps', 'Peer', 'exported', 'family', 'load', 'numbers_of', 'on_small_maps', 'output_norms',
    'with_official_eps',
]  # fmt: skip


class Absent(Exception):  # noqa: N818 (an answer)
    """A package does not have the model, or not in a way that gives the same maps."""


@dataclass
class Peer:
    """A model of another package with our weights.

    Attributes:
        label: the package and its flags.
        model: called like ours: a backbone returns its maps, a segmentor or detector has ``predict`` and ``loss``.
        note: what was changed so that both compute the same, and what is not compared.
        differs: why its results cannot equal ours.
        naming: whose names its parameters have, for :func:`densevit.checkpoints.export_weights`; None where they are
            ours or none of those.
        comparable_gradients: whether its gradients can be told by that.
        partial: whether it computes all that ours does, but returns only some of the maps.
    """

    label: str
    model: nn.Module
    note: str = ''
    differs: str = ''
    naming: str | None = None
    comparable_gradients: bool = False
    partial: bool = False


class Maps(nn.Module):
    """A package's model, called like a backbone of ours."""

    def __init__(
        self, peer: nn.Module, maps_of: Callable[..., tuple[Tensor, ...]], norms: list[nn.Module] = ()
    ) -> None:
        super().__init__()
        self.peer = peer
        self.norms = nn.ModuleList(copy.deepcopy(norm) for norm in norms)
        self.maps_of = maps_of

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> the maps, each (B, C, H, W)."""
        return self.maps_of(self.peer, x, *([self.norms] if len(self.norms) else []))


def family(config: Mapping[str, Any]) -> str:
    """The name of the class."""
    return str(config['type']).rpartition('.')[2]


def numbers_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture of a backbone of ours."""
    cls = import_part(family(config))
    default = {'SwinTransformer': 'T', 'SwinTransformerV2': 'T', 'PyramidVisionTransformer': 'small'}
    default |= {'PyramidVisionTransformerV2': 'b2', 'CvT': '13', 'PatchConvNet': 'S60'}
    return cls.resolve_arch(config.get('arch', default[family(config)]))


def output_norms(model: nn.Module) -> list[nn.Module]:
    """The norms of our Swin's maps, which classifiers do not have."""
    if model.out_indices != (0, 1, 2, 3):
        raise Absent(f'out_indices={model.out_indices}: only models that return all four maps are compared.')
    return [getattr(model, f'norm{index}') for index in model.out_indices]


def on_small_maps(model: nn.Module, size: tuple[int, int]) -> str:
    """Why another Swin computes something else on a map that is no larger than the window; empty on larger ones."""
    coarsest = min(-(-side // model.out_strides[-1]) for side in size)
    return '' if coarsest > model.window_size else 'has other windows on maps that are no larger than one'


def exported(model: nn.Module, naming: str) -> dict[str, Tensor]:
    """A backbone's weights by another package's names, without a prefix."""
    return {name.removeprefix('backbone.'): tensor for name, tensor in export_weights(model, naming).items()}


def load(peer: nn.Module, tensors: Mapping[str, Tensor], may_lack: str = r'(?!)') -> None:
    """Set a peer's weights; all but those that ``may_lack`` matches must be there, and no others."""
    rest = peer.load_state_dict(tensors, strict=False)
    missing = [name for name in rest.missing_keys if not re.search(may_lack, name)]
    if missing or rest.unexpected_keys:
        raise Absent(
            f'the weights do not fit this version of it: missing {missing[:3]}, unexpected {rest.unexpected_keys[:3]}.'
        )


# mmdetection's PVT and transformers' add 1e-6 to the variance everywhere; the official code 1e-5 in these norms.
_EPS_NORMS = re.compile(
    r'layers\.\d\.0\.norm$|attn\.norm$|embedding(s\.\d)?\.layer_norm$|attention(\.self)?\.layer_norm$'
)


def with_official_eps(peer: nn.Module) -> nn.Module:
    """PVT with the official eps in the norms of patch embeddings and reductions."""
    for name, norm in peer.named_modules():
        if _EPS_NORMS.search(name):
            norm.eps = 1e-5
    return peer
