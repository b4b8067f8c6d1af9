"""Whose names the tensors of a checkpoint can have, and the way to ours and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import did_you_mean
from . import cvt, patchconvnet, pvt, swin, swin_mm, swin_timm, swin_torchvision, swin_transformers
from .errors import CheckpointError
from .names import BACKBONE, of_backbone

__all__ = ['DENSEVIT', 'ORIGINS', 'Origin', 'Recognised', 'family_of', 'to_names_of', 'to_ours']

# The origin that needs no conversion.
DENSEVIT = 'densevit'
# By family: a tensor that our backbones of it have, and those of no other.
_OWN = {
    'PatchConvNet': 'blocks.0.conv_in.weight',
    'PVT': 'pos_embed1',
    'PVT v2': 'block1.0.mlp.dwconv.dwconv.weight',
    'CvT': 'stage0.patch_embed.proj.weight',
    'Swin': 'layers.0.blocks.0.attn.relative_position_bias_table',
    'Swin V2': 'layers.0.blocks.0.attn.logit_scale',
}


def _nothing(name: str) -> bool:
    return False


def _complete(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Origin:
    """How to recognise an origin, and how to get from its names to ours and back.

    Conversions rename and reshape, without a copy where they can; they keep the dtype, and what they have no name for
    stays as it is, so that a load finds it unexpected.

    Attributes:
        label: family and origin, as the report names them.
        key: the origin alone, as the user names it: ``'official'``, ``'mm'``, ``'timm'``, ``'transformers'``, ...
        recognises: looks at the names, and where they do not suffice at the shapes. Of all origins one at most may say
            yes.
        convert: from the names of a classifier, of a backbone alone, or of a whole segmentor or detector with the
            backbone below ``backbone.``, to those of :class:`densevit.ImageClassifier` (a backbone alone too gets the
            ``backbone.``) or of the segmentor or detector with our backbone.
        is_derived: tells tables that are computed from the architecture, which no model of ours stores.
        export: the way back, from what ``convert`` returns; None where there is none. What their models have no place
            for, such as a classifier's head, is left out.
        complete: of converted tensors, those that the origin may lack or has too short, in full, with zeros in the
            place of what is not there; only where no output depends on it.
    """

    label: str
    key: str
    recognises: Callable[[Mapping[str, Tensor]], bool]
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    is_derived: Callable[[str], bool] = _nothing
    export: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    complete: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = _complete

    @property
    def family(self) -> str:
        """The label without the origin."""
        return self.label.partition(', ')[0]


ORIGINS = (
    Origin(
        'PatchConvNet, official',
        'official',
        patchconvnet.is_official,
        patchconvnet.from_official,
        export=patchconvnet.to_official,
    ),
    Origin('PVT, official', 'official', pvt.is_official_v1, pvt.from_official, export=pvt.to_official),
    Origin('PVT, mm', 'mm', pvt.is_mm_v1, pvt.from_mm_v1, export=pvt.to_mm_v1, complete=pvt.complete_mm_v1),
    Origin(
        'PVT, transformers',
        'transformers',
        pvt.is_transformers_v1,
        pvt.from_transformers_v1,
        export=pvt.to_transformers_v1,
    ),
    Origin('PVT v2, official', 'official', pvt.is_official_v2, pvt.from_official, export=pvt.to_official),
    Origin('PVT v2, mm', 'mm', pvt.is_mm_v2, pvt.from_mm_v2, export=pvt.to_mm_v2),
    Origin('PVT v2, timm', 'timm', pvt.is_timm, pvt.from_timm, export=pvt.to_timm),
    Origin(
        'PVT v2, transformers',
        'transformers',
        pvt.is_transformers_v2,
        pvt.from_transformers_v2,
        export=pvt.to_transformers_v2,
    ),
    Origin(
        'CvT, official', 'official', cvt.is_official, cvt.from_official, export=cvt.to_official, complete=cvt.complete
    ),
    Origin(
        'CvT, transformers',
        'transformers',
        cvt.is_transformers,
        cvt.from_transformers,
        export=cvt.to_transformers,
        complete=cvt.complete,
    ),
    Origin('Swin, official', 'official', swin.is_official_v1, swin.from_official, swin.is_derived, swin.to_official),
    Origin('Swin V2, official', 'official', swin.is_official_v2, swin.from_official, swin.is_derived, swin.to_official),
    Origin('Swin, mm', 'mm', swin_mm.is_mm_v1, swin_mm.from_mm, swin.is_derived, swin_mm.to_mm),
    Origin('Swin V2, mm', 'mm', swin_mm.is_mm_v2, swin_mm.refuse_v2, swin.is_derived),
    Origin('Swin, timm', 'timm', swin_timm.is_timm_v1, swin_timm.from_timm, swin.is_derived, swin_timm.to_timm),
    Origin('Swin V2, timm', 'timm', swin_timm.is_timm_v2, swin_timm.from_timm, swin.is_derived, swin_timm.to_timm),
    Origin(
        'Swin, transformers',
        'transformers',
        swin_transformers.is_transformers_v1,
        swin_transformers.from_transformers,
        swin_transformers.is_derived,
        swin_transformers.to_transformers_v1,
    ),
    Origin(
        'Swin V2, transformers',
        'transformers',
        swin_transformers.is_transformers_v2,
        swin_transformers.from_transformers,
        swin_transformers.is_derived,
        swin_transformers.to_transformers_v2,
    ),
    Origin(
        'Swin, torchvision',
        'torchvision',
        swin_torchvision.is_torchvision_v1,
        swin_torchvision.from_torchvision_v1,
        swin.is_derived,
    ),
    Origin(
        'Swin V2, torchvision',
        'torchvision',
        swin_torchvision.is_torchvision_v2,
        swin_torchvision.from_torchvision_v2,
        swin.is_derived,
    ),
)


@dataclass(frozen=True)
class Recognised:
    """A checkpoint's tensors by our names.

    Attributes:
        origin: the label of the origin, or ``'densevit'`` where the names were ours or no origin's.
        tensors: all but the derived ones.
        derived: the names, theirs, of those that were left out, see :class:`Origin`.
        tables: those that were left out, by the names that they would have here.
        completed: the names, ours, of those in which zeros stand for what the origin does not have.
        of_whole: whether the names were those of a whole model, with the backbone below ``backbone.``.
    """

    origin: str
    tensors: dict[str, Tensor]
    derived: tuple[str, ...] = field(default=())
    tables: dict[str, Tensor] = field(default_factory=dict)
    completed: tuple[str, ...] = field(default=())
    of_whole: bool = False


def to_ours(tensors: Mapping[str, Tensor], origin: str | None = None) -> Recognised:
    """Recognise the origin, unless its label is given, and convert.

    Raises:
        CheckpointError: several origins have such names, or there is none with this label.
    """
    of_whole = any(name.startswith(BACKBONE) for name in tensors)
    if twice := next((name for name in tensors if of_whole and BACKBONE + name in tensors), None):
        raise CheckpointError(
            f'{twice!r} is there twice, with and without {BACKBONE!r}; save the one set that is meant on its own.'
        )
    if origin is None:
        known = [candidate for candidate in ORIGINS if candidate.recognises(tensors)]
    else:
        known = [candidate for candidate in ORIGINS if candidate.label == origin]
        if not known and origin != DENSEVIT:
            labels = [DENSEVIT, *(candidate.label for candidate in ORIGINS)]
            raise CheckpointError(
                f'origin {origin!r} is unknown{did_you_mean(origin, labels) or "."} Valid are {"; ".join(labels)}.'
            )
    if len(known) > 1:
        labels = ' and '.join(candidate.label for candidate in known)
        raise CheckpointError(
            f'these tensors have the names of {labels} at once; say which they are, as in tools/convert_checkpoint.py '
            f'IN OUT --to densevit --from {known[0].label!r}, and load what that writes.'
        )
    if not known:
        return Recognised(DENSEVIT, dict(tensors), of_whole=of_whole)
    (found,) = known
    derived = {name: tensor for name, tensor in tensors.items() if found.is_derived(name)}
    ours = found.convert({name: tensor for name, tensor in tensors.items() if name not in derived})
    tables = found.convert(derived) if derived else {}
    completed = found.complete(ours)
    return Recognised(found.label, ours | completed, tuple(derived), tables, tuple(completed), of_whole)


def to_names_of(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Recognised:
    """As :func:`to_ours` for a model of ours, by its state dict; for one of another package its own names stay.

    A detector with mmdetection's PVT, say, takes the files of such detectors as they are.
    """
    for origin in ORIGINS:
        if origin.recognises(own) and origin.recognises(tensors):
            return Recognised(origin.label, dict(tensors), of_whole=any(name.startswith(BACKBONE) for name in tensors))
    return to_ours(tensors)


def family_of(tensors: Mapping[str, Tensor]) -> str | None:
    """The family of tensors with our names, or None."""
    names = of_backbone(tensors)
    return next((family for family, name in _OWN.items() if name in names), None)
