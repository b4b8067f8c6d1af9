"""What ``docs/timm.md`` says: of every family of timm's models, whether the smallest can be a backbone, and why not."""

from __future__ import annotations

import multiprocessing
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import groupby

import timm
import torch
from timm.models import model_entrypoint

from ..backbones.timm_geometry import Geometry, create, geometry_of
from ..config.reading import configs_dir
from .model_index import Family

__all__ = ['Row', 'families', 'look_at', 'render', 'smallest', 'sweep']

_LONGEST = 160  # characters of a reason; timm's own may quote whole tables
# Families as papers name them, and how timm does.
NAMED = {
    'ViT': ['vit_*'],
    'DeiT': ['deit_*', 'deit3_*'],
    'CaiT': ['cait_*'],
    'PiT': ['pit_*'],
    'XCiT': ['xcit_*'],
    'Twins': ['twins_*'],
    'MViTv2': ['mvitv2_*'],
    'LambdaNetworks': ['lambda_resnet*'],
    'ResNet': ['resnet[0-9]*'],
    'ResNet-RS': ['resnetrs*'],
    'EfficientNet': ['efficientnet_*', 'tf_efficientnet_*'],
    'EfficientNetV2': ['efficientnetv2_*', 'tf_efficientnetv2_*'],
    'NFNet': ['dm_nfnet_*', 'nfnet_*'],
    'BiT': ['resnetv2_*_bit'],
    'MobileNetV2': ['mobilenetv2_*'],
}
_USE = """\
## In a config

The maps of a hierarchy go into the heads as they are. Beside the shipped configs, in `configs/`, take one of another
hierarchy, and give the heads the channels from the table below:

```python
_base_ = './upernet_timm-resnet-50_ade20k.py'

model = dict(
    backbone=dict(model_name='convnext_tiny', norm_eval=False, drop_path_rate=0.2),  # it has no BatchNorm to keep still
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
```

Semantic FPN and Mask R-CNN want strides of 4, 8, 16 and 32. For UperNet a model with three maps needs `in_index` too,
see `upernet_timm-pit-s_ade20k.py`.

All maps of a column have one stride, and `densevit.ColumnarPyramid` makes the four levels of them:

```python
_base_ = './upernet_timm-deit-s_ade20k.py'

embed_dims = 192
model = dict(
    backbone=dict(model_name='deit_tiny_patch16_224'),
    neck=dict(in_channels=embed_dims),
    decode_head=dict(in_channels=[embed_dims] * 4),
    auxiliary_head=dict(in_channels=embed_dims),
)
```

The neck's factors are for a stride of 16; for 8 give `neck=dict(scales=(2, 1, 0.5, 0.25))`. A stride of 14 gives levels
of 3.5 to 28, which UperNet takes and Mask R-CNN does not: its anchors and regions count on 4 to 32.

What shall not decay beside norms, such as position tables, class tokens and `rel_pos`, is named in `custom_keys` of
`optim_wrapper`: begin with the config of a relative. ViT, CaiT and PiT compile for one size,
`torch.compile(..., dynamic=False)`.

Weights are fetched by `--cfg-options model.backbone.pretrained=True`: those that timm takes for the name, or others by
their tag, as in `model_name='resnet50.tv_in1k'`. They want images normalized as they were trained, which is what `mean`
and `std` of `timm.get_pretrained_cfg(name)` say, between 0 and 1; `data_preprocessor` has them between 0 and 255. Where
there is no network, `--load-from FILE` takes timm's own files.

In Python:

```python
backbone = densevit.TimmBackbone('pit_s_224')
print(backbone.out_channels, backbone.out_strides)  # (144, 288, 576) (8, 16, 32)
maps = backbone(torch.rand(1, 3, 67, 53))
```

## In a classifier

`densevit.ImageClassifier` puts the learned aggregation of PatchConvNet on top, in the place of average pooling:

```python
backbone = dict(type='densevit.TimmBackbone', model_name='resnet50')
classifier = densevit.ImageClassifier(backbone, pool='learned')
```

Its article ([Touvron et al.](https://arxiv.org/abs/2112.13692)) has this ResNet-50 at 80.1 % on ImageNet-1k, 0.3 above
average pooling, for 4.6 GMACs in the place of 4.1. Counted here are 4.54 and 4.09 GMACs at 224 x 224, and 67.5 M
parameters in the place of 25.6 M. We know of no published weights. What one that you have trained looks at is drawn by:

```bash
python tools/explain.py densevit.TimmBackbone:resnet50 model.pth cat.jpg --out pictures
```"""


@dataclass(frozen=True)
class Row:
    """What was found of one model; ``why`` is empty where it can be a backbone."""

    module: str
    model: str
    of: int
    parameters: int
    geometry: Geometry | None
    why: str = ''


def families(names: Iterable[str] | None = None) -> dict[tuple[str, str], list[str]]:
    """timm's models by module and by the letters that their names begin with, such as ``('resnet', 'resnetrs')``.

    Left out are the ones that timm has for its own tests.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for name in timm.list_models() if names is None else names:
        if not name.startswith('test_'):
            stem = re.match(r'[a-z]+', name.removeprefix('tf_'))
            found.setdefault((module_of(name), stem[0] if stem else name), []).append(name)
    return dict(sorted(found.items()))


def module_of(name: str) -> str:
    """The file of ``timm.models`` that defines a model."""
    return model_entrypoint(name).__module__.rpartition('.')[2]


def smallest(names: Sequence[str]) -> tuple[str, int]:
    """The model with the fewest parameters, and how many; without a classifier."""
    with torch.device('meta'):
        counts = {name: sum(p.numel() for p in create(name, {}).parameters()) for name in names}
    name = min(counts, key=counts.__getitem__)
    return name, counts[name]


def look_at(names: Sequence[str]) -> Row:
    """The row of a family."""
    name, parameters = smallest(names)
    row = Row(module_of(name), name, len(names), parameters, None)
    try:
        return Row(**{**vars(row), 'geometry': geometry_of(name, {'in_chans': 3})})
    except ValueError as error:
        why = str(error).partition('cannot be a backbone: ')[2] or str(error)
        why = re.sub(r'\s+', ' ', why).rstrip('. ')
        return Row(**{**vars(row), 'why': why if len(why) <= _LONGEST else f'{why[:_LONGEST]} ...'})


def sweep(jobs: int, chosen: Mapping[tuple[str, str], list[str]] | None = None) -> list[Row]:
    """The rows of all families, found by ``jobs`` processes without memory for weights."""
    groups = list((families() if chosen is None else chosen).values())
    with multiprocessing.get_context('spawn').Pool(jobs, initializer=_quiet) as pool:
        return sorted(pool.imap_unordered(look_at, groups), key=lambda row: (row.module, row.model))


def _quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')


def render(rows: Sequence[Row]) -> str:
    """The page, in Markdown."""
    good = [row for row in rows if row.geometry]
    models = sum(row.of for row in rows)
    parts = [
        '# Models of timm as backbones',
        '<!-- written by `python tools/timm_table.py --write` -->',
        f'timm {timm.__version__} has {models} models in {len(rows)} families: those of one file whose names begin '
        f'alike. Of each the smallest was looked at, without weights: {len(good)} can be a `densevit.TimmBackbone`, '
        f'{len(rows) - len(good)} cannot. Other members of a family can differ, and building one tells.',
        _USE,
        '## By name',
        'Families as articles name them. A model of one that has no config of its own goes into one as above.',
        _table(['family', 'in timm', 'shipped configs'], [_named(name) for name in NAMED]),
        '## Supported',
        'Channels and strides are those of the maps that are returned unless `out_indices` asks for others. Images are '
        'padded to multiples of *padded to*, and the maps cut to ceil(H / stride) x ceil(W / stride) again; models '
        'with 1 there take every size from their coarsest stride on by themselves. The zeros are seen: attention and '
        "global pooling count them, as in timm's own padding. Between a column, whose maps have one stride, and a head "
        'goes `densevit.ColumnarPyramid`.',
        _table(
            ['file', 'model', 'of', 'parameters', 'channels', 'strides', 'padded to'], [_supported(r) for r in good]
        ),
        '## Refused',
        _table(['file', 'model', 'of', 'why'], [_refused(r) for r in rows if not r.geometry]),
    ]
    return '\n\n'.join(parts) + '\n'


def _named(name: str) -> list[str]:
    """The row of a family as papers name it, with the configs that have one of its models."""
    found = []
    path = 'timm/metafile.yml'
    for model in Family(path, (configs_dir() / path).read_text()).models:
        backbone = model['Metadata']['Architecture'][0].removeprefix('TimmBackbone ').partition('.')[0]
        if any(fnmatch(backbone, pattern) for pattern in NAMED[name]):
            found.append(f'[{model["Name"]}](../{model["Config"]})')
    return [name, ', '.join(f'`{pattern}`' for pattern in NAMED[name]), '<br>'.join(found)]


def _supported(row: Row) -> list[str]:
    geometry = row.geometry
    assert geometry is not None
    indices = geometry.default_indices
    channels, strides = ([values[i] for i in indices] for values in (geometry.channels, geometry.strides))
    return [*_head(row), f'{row.parameters / 1e6:.1f} M', _short(channels), _short(strides), str(geometry.divisor)]


def _refused(row: Row) -> list[str]:
    return [*_head(row), row.why.replace('|', '\\|').replace('<', '&lt;')]


def _head(row: Row) -> list[str]:
    return [f'`{row.module}`', f'`{row.model}`', str(row.of)]


def _short(numbers: Sequence[int]) -> str:
    """Numbers, those that repeat once: ``4 x 384``."""
    runs = [(number, len(list(run))) for number, run in groupby(numbers)]
    return ', '.join(f'{count} x {number}' if count > 1 else str(number) for number, count in runs)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in (heads, ['---'] * len(heads), *rows))
