"""The parameter names of Swin and Swin V2 in transformers, those of the Hugging Face Hub, and ours.

Of ``SwinForImageClassification`` (``swin.``, ``classifier.``), of ``SwinModel``, of ``SwinBackbone`` with norms of its
maps, and of their likes for Swin V2. Files have the names of transformers 4. transformers 5 has others for Swin in
memory, which are read here too. Queries, keys and values have a projection each; in Swin V2 that of the keys has no
bias.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .names import NameTable, reads_whole, writes_whole
from .swin import HALLMARK, scales_as_columns, scales_as_vectors
from .swin import is_derived as is_table

__all__ = [
    'from_transformers',
    'is_derived',
    'is_transformers_v1',
    'is_transformers_v2',
    'to_transformers_v1',
    'to_transformers_v2',
]

_THEIRS, _OURS = 'encoder.layers.{s}.blocks.{b}.', 'backbone.layers.{s}.blocks.{b}.'
_TRANSFORMERS = NameTable(
    ('embeddings.patch_embeddings.projection.*', 'backbone.patch_embed.proj.*'),
    ('embeddings.norm.*', 'backbone.patch_embed.norm.*'),
    *(
        (_THEIRS + theirs, _OURS + ours)
        for theirs, ours in (
            ('layernorm_before.*', 'norm1.*'),
            ('layernorm_after.*', 'norm2.*'),
            ('attention.self.query.*', 'attn.q.*'),
            ('attention.self.key.*', 'attn.k.*'),
            ('attention.self.value.*', 'attn.v.*'),
            ('attention.output.dense.*', 'attn.proj.*'),
            ('attention.self.continuous_position_bias_mlp.*', 'attn.cpb_mlp.*'),
            ('attention.self.*', 'attn.*'),
            ('intermediate.dense.*', 'mlp.fc1.*'),
            ('output.dense.*', 'mlp.fc2.*'),
            # in memory
            ('attention.q_proj.*', 'attn.q.*'),
            ('attention.k_proj.*', 'attn.k.*'),
            ('attention.v_proj.*', 'attn.v.*'),
            ('attention.o_proj.*', 'attn.proj.*'),
            ('attention.relative_position_bias.*', 'attn.*'),
            ('mlp.*', 'mlp.*'),
        )
    ),
    ('encoder.layers.*', 'backbone.layers.*'),
    ('hidden_states_norms.stage{s+1}.*', 'backbone.norm{s}.*'),
    ('layernorm.*', 'pool.norm.*'),
    ('classifier.*', 'head.*'),
)
_PREFIX = re.compile(r'^(?:swin|swinv2)\.')
_HALLMARK = re.compile(
    r'(?:backbone\.)?(?:swin\.|swinv2\.)?encoder\.layers\.0\.blocks\.0\.attention\.'
    r'(?:self|relative_position_bias)\.(\w+)'
)
_NORM = re.compile(r'backbone\.norm\d+\.')
# A segmentor has norms of the maps instead, and does not use this one.
_UNUSED = re.compile(r'backbone\.swin\.layernorm\.\w+')


def is_transformers_v1(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of transformers' Swin."""
    return _is_version(1, names)


def is_transformers_v2(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of transformers' Swin V2."""
    return _is_version(2, names)


def _is_version(version: int, names: Mapping[str, Tensor]) -> bool:
    return any(match[1] == HALLMARK[version] for match in map(_HALLMARK.fullmatch, names) if match)


def is_derived(name: str) -> bool:
    """Whether a tensor is a derived table, or a norm that its model does not use."""
    return is_table(name) or bool(_UNUSED.fullmatch(name))


@reads_whole
def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By our names, with one projection for queries, keys and values."""
    ours = _TRANSFORMERS.to_ours({_PREFIX.sub('', name): tensor for name, tensor in tensors.items()})
    for name in [name for name in ours if '.attn.q.' in name]:
        attention, kind = name.split('q.')
        parts = [ours.get(f'{attention}{part}.{kind}') for part in 'qkv']  # three of (C, C) or (C,)
        if all(part is not None for part in parts):
            ours[f'{attention}qkv.{kind}'] = torch.cat(parts)
        elif kind == 'bias' and parts[1] is None and parts[2] is not None:  # Swin V2
            ours[f'{attention}q_bias'], _, ours[f'{attention}v_bias'] = parts
        else:
            continue  # one is missing: let the load find the others unexpected
        for part in 'qkv':
            ours.pop(f'{attention}{part}.{kind}', None)
    return scales_as_vectors(ours)


@writes_whole
def to_transformers_v1(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the names of transformers' files of Swin."""
    return _to_transformers(tensors, 'swin.')


@writes_whole
def to_transformers_v2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the names of transformers' files of Swin V2, without the norms of a dense backbone's maps, which it lacks."""
    return _to_transformers({name: t for name, t in tensors.items() if not _NORM.match(name)}, 'swinv2.')


def _to_transformers(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    apart = {}
    for name, tensor in scales_as_columns(tensors).items():
        attention, _, kind = name.partition('qkv.')
        if kind:
            apart |= {f'{attention}{part}.{kind}': rows for part, rows in zip('qkv', tensor.chunk(3), strict=True)}
        else:
            apart[re.sub(r'\.attn\.([qv])_bias$', r'.attn.\1.bias', name)] = tensor
    theirs = _TRANSFORMERS.to_theirs(apart)
    if 'classifier.weight' not in theirs:
        return theirs
    return {name if name.startswith('classifier.') else prefix + name: t for name, t in theirs.items()}
