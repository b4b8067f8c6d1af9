"""CvT's parameter names in official files and in transformers' copies of them, and ours.

Official: `microsoft/CvT` (commit f851e68), `lib/models/cls_cvt.py`: stages, norm and head in one flat namespace; the
released files are such state dicts. transformers: ``CvtForImageClassification``, the files of the Hugging Face Hub, or
the ``CvtModel`` in it, without ``cvt.`` and without norm and head. mmsegmentation and mmdetection have no CvT.
Ours: an :class:`densevit.ImageClassifier` of ``backbone``, ``pool`` and ``head``, with the official names inside the
backbone.

The weights in transformers are the official ones. Only the names differ, and what it computes with them: it has an
exact GELU where the weights were trained with :class:`timm.layers.QuickGELU`, which this package keeps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .names import BACKBONE, NameTable, reads_whole, writes_whole

__all__ = [
    'complete',
    'from_official',
    'from_transformers',
    'is_official',
    'is_transformers',
    'to_official',
    'to_transformers',
]

_OFFICIAL = NameTable(('stage{s}.*', 'backbone.stage{s}.*'), ('norm.*', 'pool.norm.*'))


def _of_projection(word: str) -> list[tuple[str, str]]:
    """Names in a block, (theirs, ours), of what makes the query, key or value."""
    theirs, ours = 'layers.{b}.attention.attention', 'blocks.{b}.attn'
    convolution = f'{theirs}.convolution_projection_{word}.convolution_projection'
    return [
        (f'{convolution}.convolution.*', f'{ours}.conv_proj_{word[0]}.conv.*'),
        (f'{convolution}.normalization.*', f'{ours}.conv_proj_{word[0]}.bn.*'),
        (f'{theirs}.projection_{word}.*', f'{ours}.proj_{word[0]}.*'),
    ]


_OF_STAGE = (
    ('cls_token', 'cls_token'),
    ('embedding.convolution_embeddings.projection.*', 'patch_embed.proj.*'),
    ('embedding.convolution_embeddings.normalization.*', 'patch_embed.norm.*'),
    ('layers.{b}.layernorm_before.*', 'blocks.{b}.norm1.*'),
    *(pair for word in ('query', 'key', 'value') for pair in _of_projection(word)),
    ('layers.{b}.attention.output.dense.*', 'blocks.{b}.attn.proj.*'),
    ('layers.{b}.layernorm_after.*', 'blocks.{b}.norm2.*'),
    ('layers.{b}.intermediate.dense.*', 'blocks.{b}.mlp.fc1.*'),
    ('layers.{b}.output.dense.*', 'blocks.{b}.mlp.fc2.*'),
)
_TRANSFORMERS = NameTable(
    *((f'cvt.encoder.stages.{{s}}.{theirs}', f'backbone.stage{{s}}.{ours}') for theirs, ours in _OF_STAGE),
    ('layernorm.*', 'pool.norm.*'),
    ('classifier.*', 'head.*'),
)
_COUNTED = '.running_mean'
_COUNTER = '.num_batches_tracked'


def is_official(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of an official CvT; a backbone of ours alone has no ``norm``."""
    return {'stage0.blocks.0.attn.conv_proj_q.conv.weight', 'norm.weight'} <= names.keys()


def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename official tensors; the head's names are the same."""
    return _OFFICIAL.to_ours(tensors)


@writes_whole
def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names to the official ones."""
    return _OFFICIAL.to_theirs(tensors)


def is_transformers(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of a CvT of transformers."""
    return 'cvt.encoder.stages.0.embedding.convolution_embeddings.projection.weight' in _of_classifier(names)


@reads_whole
def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' CvT, with a head or without."""
    return _TRANSFORMERS.to_ours(_of_classifier(tensors))


@writes_whole
def to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names to those of ``CvtForImageClassification``."""
    return _TRANSFORMERS.to_theirs(tensors)


def _of_classifier(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``encoder.`` as ``cvt.encoder.``: a ``CvtModel``'s names as a classifier has them."""
    names = {name: name.removeprefix(BACKBONE) for name in tensors}
    return {f'cvt.{n}' if n.startswith('encoder.') else n: tensors[name] for name, n in names.items()}


def complete(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BatchNorm's counters of batches that the file lacks, 0.

    No result depends on them, and tools that average or convert weights leave integers out.
    """
    counters = (
        name.removesuffix(_COUNTED) + _COUNTER
        for name in tensors
        if name.startswith(BACKBONE) and name.endswith(_COUNTED)
    )
    return {name: torch.zeros((), dtype=torch.long) for name in counters if name not in tensors}
