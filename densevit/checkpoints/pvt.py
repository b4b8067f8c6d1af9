"""The parameter names of PVT and PVT v2 in the packages that have them, and ours.

Ours: an :class:`densevit.ImageClassifier` of ``backbone``, ``pool`` and ``head``, the official names in the backbone.

* Official: `whai362/PVT` (commit 57e2dfa), `classification/pvt.py` and `pvt_v2.py`: backbone, norm and head in one flat
  namespace. A backbone alone has the same names as ours, and so has an official segmentor or detector; they count as
  ours.
* mmdetection: both versions, backbones only, without the linear variant. q, k and v are one matrix, the feed-forward
  layers are 1 x 1 convolutions, and the last position table lacks the class token's entry. SegFormer's encoder in
  mmsegmentation is PVT v2 with other numbers, and has the same names.
* timm: v2, a classifier, or a backbone alone with ``stages_0`` instead of ``stages.0``.
* transformers: both versions, ``PvtForImageClassification`` and ``PvtV2ForImageClassification``, and what they contain,
  without the ``pvt.`` or ``pvt_v2.``. k and v are two matrices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import CheckpointError
from .names import BACKBONE, CLASSIFIER, NameTable, of_backbone, reads_whole, writes_whole

__all__ = [
    'complete_mm_v1',
    'from_mm_v1',
    'from_mm_v2',
    'from_official',
    'from_timm',
    'from_transformers_v1',
    'from_transformers_v2',
    'is_mm_v1',
    'is_mm_v2',
    'is_official_v1',
    'is_official_v2',
    'is_timm',
    'is_transformers_v1',
    'is_transformers_v2',
    'to_mm_v1',
    'to_mm_v2',
    'to_official',
    'to_timm',
    'to_transformers_v1',
    'to_transformers_v2',
]

# (theirs, ours). Official names count stages from 1, all others from 0.
_OFFICIAL = NameTable(
    ('patch_embed{s}.*', 'backbone.patch_embed{s}.*'),
    ('pos_embed{s}', 'backbone.pos_embed{s}'),
    ('block{s}.*', 'backbone.block{s}.*'),
    ('norm{s}.*', 'backbone.norm{s}.*'),  # v2, behind every stage
    ('norm.*', 'pool.norm.*'),  # v1
    ('cls_token', 'pool.cls_token'),
)
_TIMM = NameTable(
    ('patch_embed.*', 'backbone.patch_embed1.*'),
    ('stages.{s}.downsample.*', 'backbone.patch_embed{s+1}.*'),
    ('stages.{s}.blocks.{b}.mlp.dwconv.*', 'backbone.block{s+1}.{b}.mlp.dwconv.dwconv.*'),
    ('stages.{s}.blocks.*', 'backbone.block{s+1}.*'),
    ('stages.{s}.norm.*', 'backbone.norm{s+1}.*'),
)


def _blocks(theirs: str, *pairs: tuple[str, str]) -> list[tuple[str, str]]:
    """The pairs below the names of a block."""
    return [(f'{theirs}.{inner}', f'backbone.block{{s+1}}.{{b}}.{ours}') for inner, ours in pairs]


_MM = (
    ('layers.{s}.0.projection.*', 'backbone.patch_embed{s+1}.proj.*'),
    ('layers.{s}.0.norm.*', 'backbone.patch_embed{s+1}.norm.*'),
)
_MM_BLOCK = (
    ('attn.attn.in_proj_*', 'attn.qkv.*'),
    ('attn.attn.out_proj.*', 'attn.proj.*'),
    ('ffn.layers.0.*', 'mlp.fc1.*'),
)
_MM_V1 = NameTable(
    *_MM,
    ('layers.{s}.1.0.pos_embed', 'backbone.pos_embed{s+1}'),
    *_blocks('layers.{s}.1.{b+1}', *_MM_BLOCK, ('ffn.layers.3.*', 'mlp.fc2.*'), ('*', '*')),
)
_MM_V2 = NameTable(
    *_MM,
    *_blocks(
        'layers.{s}.1.{b}',
        *_MM_BLOCK,
        ('ffn.layers.1.*', 'mlp.dwconv.dwconv.*'),
        ('ffn.layers.4.*', 'mlp.fc2.*'),
        ('*', '*'),
    ),
    ('layers.{s}.2.*', 'backbone.norm{s+1}.*'),
)
_TRANSFORMERS_V1 = NameTable(
    ('encoder.patch_embeddings.{s}.position_embeddings', 'backbone.pos_embed{s+1}'),
    ('encoder.patch_embeddings.{s}.projection.*', 'backbone.patch_embed{s+1}.proj.*'),
    ('encoder.patch_embeddings.{s}.layer_norm.*', 'backbone.patch_embed{s+1}.norm.*'),
    *_blocks(
        'encoder.block.{s}.{b}',
        ('layer_norm_{n}.*', 'norm{n}.*'),
        ('attention.self.query.*', 'attn.q.*'),
        ('attention.self.key.*', 'attn.k.*'),
        ('attention.self.value.*', 'attn.v.*'),
        ('attention.self.sequence_reduction.*', 'attn.sr.*'),
        ('attention.self.layer_norm.*', 'attn.norm.*'),
        ('attention.output.dense.*', 'attn.proj.*'),
        ('mlp.dense{n}.*', 'mlp.fc{n}.*'),
    ),
    ('encoder.patch_embeddings.3.cls_token', 'pool.cls_token'),
    ('encoder.layer_norm.*', 'pool.norm.*'),
    ('classifier.*', 'head.*'),
)
_TRANSFORMERS_V2 = NameTable(
    ('encoder.layers.{s}.patch_embedding.proj.*', 'backbone.patch_embed{s+1}.proj.*'),
    ('encoder.layers.{s}.patch_embedding.layer_norm.*', 'backbone.patch_embed{s+1}.norm.*'),
    *_blocks(
        'encoder.layers.{s}.blocks.{b}',
        ('layer_norm_{n}.*', 'norm{n}.*'),
        ('attention.query.*', 'attn.q.*'),
        ('attention.key.*', 'attn.k.*'),
        ('attention.value.*', 'attn.v.*'),
        ('attention.spatial_reduction.*', 'attn.sr.*'),
        ('attention.layer_norm.*', 'attn.norm.*'),
        ('attention.proj.*', 'attn.proj.*'),
        ('mlp.dense{n}.*', 'mlp.fc{n}.*'),
        ('mlp.dwconv.*', 'mlp.dwconv.*'),
    ),
    ('encoder.layers.{s}.layer_norm.*', 'backbone.norm{s+1}.*'),
    ('classifier.*', 'head.*'),
)
_LAST_TABLE = 'backbone.pos_embed4'  # it begins with the class token's entry
_LINEAR = re.compile(r'.+\.mlp\.fc\d\.weight')
_ROWS = re.compile(r'(.+\.attn)\.(\w+)\.(\w+)')


# ------------------------------------------------------------------------------------------------------- official
def is_official_v1(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of an official PVT (v1) classifier."""
    return {'pos_embed1', 'cls_token', 'block1.0.attn.kv.weight'} <= names.keys()


def is_official_v2(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of an official PVT v2 classifier."""
    return {'norm1.weight', 'head.weight', 'block1.0.mlp.dwconv.dwconv.weight'} <= names.keys()


def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename official tensors; the head's names are the same."""
    return _OFFICIAL.to_ours(tensors)


@writes_whole
def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names to the official ones."""
    return _OFFICIAL.to_theirs(tensors)


# ----------------------------------------------------------------------------------------------------- mmdetection
def is_mm_v1(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of mmdetection's ``PyramidVisionTransformer``."""
    return {'layers.0.1.0.pos_embed', 'layers.0.1.1.attn.attn.in_proj_weight'} <= of_backbone(names)


def is_mm_v2(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of mmdetection's ``PyramidVisionTransformerV2``."""
    return {'layers.0.1.0.ffn.layers.1.weight', 'layers.0.1.0.attn.attn.in_proj_weight'} <= of_backbone(names)


@reads_whole
def from_mm_v1(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """mmdetection's PVT; the last position table stays as short as it is, see :func:`complete_mm_v1`."""
    return _from_mm(_MM_V1, tensors)


@reads_whole
def from_mm_v2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """mmdetection's PVT v2."""
    return _from_mm(_MM_V2, tensors)


def complete_mm_v1(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The last position table with zeros in the class token's place; no map depends on them."""
    table = tensors.get(_LAST_TABLE)
    return {} if table is None else {_LAST_TABLE: torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)}


@writes_whole
def to_mm_v1(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone with mmdetection's names, without the class token's position."""
    tensors = {name: tensor[:, 1:] if name == _LAST_TABLE else tensor for name, tensor in tensors.items()}
    return _to_mm(_MM_V1, tensors)


@writes_whole
def to_mm_v2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone with mmdetection's names.

    Raises:
        CheckpointError: it is of the linear variant.
    """
    # there the reduction is a 1 x 1 convolution behind a pooling
    if any(name.endswith('.attn.sr.weight') and tensor.shape[-1] == 1 for name, tensor in tensors.items()):
        raise CheckpointError('mmdetection has no linear variant of PVT v2 (b2-li); there is no mm naming of it.')
    return _to_mm(_MM_V2, tensors)


def _from_mm(table: NameTable, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = _split(table.to_ours(tensors), 'qkv', ('q', 'kv'), 3)
    # their 1 x 1 convolutions are linear layers: (C_out, C_in, 1, 1) -> (C_out, C_in)
    return {name: t.flatten(1) if _LINEAR.fullmatch(name) and t.ndim == 4 else t for name, t in renamed.items()}


def _to_mm(table: NameTable, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    backbone = {
        name: t[:, :, None, None] if _LINEAR.fullmatch(name) else t
        for name, t in tensors.items()
        if not name.startswith(CLASSIFIER)
    }
    return table.to_theirs(_join(backbone, ('q', 'kv'), 'qkv'))


# ------------------------------------------------------------------------------------------------------------ timm
def is_timm(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of timm's PVT v2."""
    block = {'blocks.0.mlp.dwconv.weight', 'blocks.0.attn.kv.weight'}
    return any({f'{stage}.{name}' for name in block} <= of_backbone(names) for stage in ('stages.0', 'stages_0'))


@reads_whole
def from_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's PVT v2, the classifier or, as ``features_only`` makes it, the backbone alone."""
    return _TIMM.to_ours({re.sub(r'^stages_(\d)', r'stages.\1', name): tensor for name, tensor in tensors.items()})


@writes_whole
def to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names to those of timm's classifier."""
    return _TIMM.to_theirs(tensors)


# ---------------------------------------------------------------------------------------------------- transformers
def is_transformers_v1(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of a PVT of transformers."""
    return 'encoder.patch_embeddings.0.position_embeddings' in _inside(names, 'pvt.')


def is_transformers_v2(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of a PVT v2 of transformers."""
    return 'encoder.layers.0.blocks.0.mlp.dwconv.dwconv.weight' in _inside(names, 'pvt_v2.')


@reads_whole
def from_transformers_v1(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' PVT, with a head or without."""
    return _join(_TRANSFORMERS_V1.to_ours(_inside(tensors, 'pvt.')), ('k', 'v'), 'kv')


@reads_whole
def from_transformers_v2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' PVT v2, with a head or without."""
    return _join(_TRANSFORMERS_V2.to_ours(_inside(tensors, 'pvt_v2.')), ('k', 'v'), 'kv')


@writes_whole
def to_transformers_v1(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names to those of ``PvtForImageClassification``."""
    return _outside(_TRANSFORMERS_V1.to_theirs(_split(tensors, 'kv', ('k', 'v'), 2)), 'pvt.')


@writes_whole
def to_transformers_v2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names to those of ``PvtV2ForImageClassification``."""
    return _outside(_TRANSFORMERS_V2.to_theirs(_split(tensors, 'kv', ('k', 'v'), 2)), 'pvt_v2.')


def _inside(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The names as the model without a head has them."""
    return {name.removeprefix(BACKBONE).removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _outside(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name if name.startswith('encoder.') else name: tensor for name, tensor in tensors.items()}


# --------------------------------------------------------------------------------- several linear layers in one
def _join(tensors: Mapping[str, Tensor], parts: tuple[str, str], whole: str) -> dict[str, Tensor]:
    """``attn.<part>.*`` one below the other as ``attn.<whole>.*``, where both are there."""
    joined = {}
    for name, tensor in tensors.items():
        match = _ROWS.fullmatch(name)
        if match and match[2] in parts:
            rows = [tensors.get(f'{match[1]}.{part}.{match[3]}') for part in parts]
            if all(part is not None for part in rows):
                if match[2] == parts[0]:
                    joined[f'{match[1]}.{whole}.{match[3]}'] = torch.cat(rows)
                continue
        joined[name] = tensor
    return joined


def _split(tensors: Mapping[str, Tensor], whole: str, parts: tuple[str, str], share: int) -> dict[str, Tensor]:
    """``attn.<whole>.*`` cut in two, the first being one of ``share`` equal pieces: views."""
    cut = {}
    for name, tensor in tensors.items():
        match = _ROWS.fullmatch(name)
        if match and match[2] == whole:
            rows = len(tensor) // share
            cut[f'{match[1]}.{parts[0]}.{match[3]}'] = tensor[:rows]
            cut[f'{match[1]}.{parts[1]}.{match[3]}'] = tensor[rows:]
        else:
            cut[name] = tensor
    return cut
