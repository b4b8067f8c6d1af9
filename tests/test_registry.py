"""Parts are found by name from any config, with whatever packages there are."""

from __future__ import annotations

from importlib import import_module
from pkgutil import walk_packages

import pytest
from mmengine.registry import Registry

import densevit
from densevit import registry
from densevit.errors import UserError, did_you_mean
from densevit.registry import FUNCTIONS, PARTS, import_part
from tests.fresh import run_forked

REGISTRIES = {name: value for name, value in vars(registry).items() if isinstance(value, registry.PartRegistry)}

SEGMENTOR = """dict(
    type='EncoderDecoder',
    backbone=dict(type='densevit.PatchConvNet', arch=dict(embed_dims=16, depth=2)),
    neck=dict(type='densevit.ColumnarPyramid', in_channels=16),
    decode_head=dict(
        type='UPerHead', in_channels=[16] * 4, in_index=[0, 1, 2, 3], channels=8, num_classes=3,
        norm_cfg=dict(type='BN'),
    ),
)"""
DETECTOR = """dict(
    type='RetinaNet',
    backbone=dict(type='densevit.PatchConvNet', arch=dict(embed_dims=16, depth=2)),
    neck=[dict(type='densevit.ColumnarPyramid', in_channels=16),
          dict(type='FPN', in_channels=[16] * 4, out_channels=8, num_outs=5)],
    bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=8, stacked_convs=1, feat_channels=8),
)"""
SEGMENTOR, DETECTOR = (' '.join(text.split()) for text in (SEGMENTOR, DETECTOR))
NAMES = 'print(type(model).__module__, type(model.backbone).__module__)'


# -------------------------------------------------------------------------- configs in a new process
def test_mmseg_config_needs_nothing(tmp_path):
    pytest.importorskip('mmseg')
    printed = run_forked(
        f"""
        import sys
        from mmengine.registry import init_default_scope
        from mmseg.registry import MODELS
        init_default_scope('mmseg')
        assert 'densevit' not in sys.modules
        model = MODELS.build({SEGMENTOR})
        {NAMES}
        """
    )
    assert printed.split('\n')[-1] == 'mmseg.models.segmentors.encoder_decoder densevit.backbones.patchconvnet'


@pytest.mark.parametrize('how', ['import densevit', 'custom_imports'])
def test_mmdet_config_needs_the_import(tmp_path, how):
    pytest.importorskip('mmdet')
    config = tmp_path / 'config.py'
    config.write_text(
        ("custom_imports = dict(imports=['densevit'])\n" if how == 'custom_imports' else '') + f'model = {DETECTOR}\n'
    )
    printed = run_forked(
        f"""
        {how if how == 'import densevit' else ''}
        from mmengine.config import Config
        from mmengine.registry import init_default_scope
        cfg = Config.fromfile({str(config)!r})
        init_default_scope('mmdet')
        from mmdet.registry import MODELS
        model = MODELS.build(cfg.model)
        {NAMES}
        """,
        folder=tmp_path,
    )
    assert printed.split('\n')[-1] == 'mmdet.models.detectors.retinanet densevit.backbones.patchconvnet'


# ------------------------------------------------------------------------------------- absent packages
PROBE = """
import densevit, json
from densevit.errors import UserError
from densevit import registry
from densevit.registry import PARTS

REGISTRIES = [each for each in vars(registry).values() if isinstance(each, registry.PartRegistry)]

def ask(name):
    getattr(densevit, name)
    return 'found' if any(name in each.module_dict for each in REGISTRIES) else 'not registered'

found = {}
for name in PARTS:
    try:
        found[name] = ask(name)
    except UserError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


@pytest.mark.parametrize(('absent', 'distribution'), [
    ('mmdet', 'onedl-mmdetection'), ('mmseg', 'onedl-mmsegmentation'),
    ('faster_coco_eval', 'faster-coco-eval'), ('', ''),
])  # fmt: skip
def test_an_absent_package_takes_only_its_own_parts(absent, distribution):
    import json

    for package in ('mmdet', 'mmseg', 'faster_coco_eval'):
        if package != absent:
            pytest.importorskip(package)
    answers = json.loads(run_forked(PROBE, absent=(absent,) if absent else ()).split('\n')[-1])
    assert set(answers) == set(PARTS)
    refused = {name for name, answer in answers.items() if answer != 'found'}
    for name in refused:
        assert f'densevit.{name} needs the package {absent!r}' in answers[name]
        assert f'pip install {distribution}`' in answers[name]
    always = {'PatchConvNet', 'ImageClassifier', 'LearnedAggregation', 'ColumnarPyramid', 'IoUMetric', 'ValLoop'}
    assert not refused & always
    if absent in ('mmdet', 'faster_coco_eval'):
        assert 'CocoMetric' in refused
    else:
        assert 'CocoMetric' not in refused


def test_a_config_with_an_absent_package_says_which():
    printed = run_forked(
        """
        import densevit
        from mmengine.registry import METRICS
        try:
            METRICS.build(dict(type='densevit.CocoMetric'))
        except Exception as error:
            print(type(error).__name__, error)
        print(METRICS.build(dict(type='densevit.IoUMetric')).__class__.__name__)
        """,
        absent=('mmdet',),
    )
    assert 'needs the package' in printed
    assert 'onedl-mmdetection' in printed
    assert printed.endswith('IoUMetric')


# ------------------------------------------------------------------------------------------- the table
def test_every_part_resolves_and_is_registered():
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    assert len(PARTS) >= 8
    for name, module in PARTS.items():
        part = import_part(name)
        assert part is getattr(import_module(module), name)
        assert getattr(densevit, name) is part
        homes = [each for each in REGISTRIES.values() if name in each.module_dict]
        assert len(homes) == 1, f'{name} is in {len(homes)} registries'
        assert homes[0].get(name) is homes[0].get(f'densevit.{name}') is homes[0].root.get(f'densevit.{name}') is part


def test_functions_are_attributes_but_no_parts():
    assert FUNCTIONS and not FUNCTIONS.keys() & PARTS.keys()
    for name, module in FUNCTIONS.items():
        assert getattr(densevit, name) is getattr(import_module(module), name)
        assert name in dir(densevit)


def test_every_registered_class_is_a_part():
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    for module in walk_packages(densevit.__path__, 'densevit.'):
        if module.name.startswith('densevit.compat.ops'):  # mmcv._ext, under another name
            continue
        import_module(module.name)
    # tests of other files may have registered hooks of their own
    registered = {
        name
        for each in REGISTRIES.values()
        for name, part in each.module_dict.items()
        if part.__module__.startswith('densevit.')
    }
    assert registered == set(PARTS)


def test_registries_are_children_of_mmengine():
    assert len(REGISTRIES) >= 5
    for each in REGISTRIES.values():
        assert each.scope == 'densevit'
        assert isinstance(each.parent, Registry) and each.parent.scope == 'mmengine'
        assert each.parent.children['densevit'] is each
    assert set(REGISTRIES) <= set(registry.__all__)


@pytest.mark.parametrize('name', ['densevit.PatchConvNt', 'PatchConvNt'])
def test_an_unknown_name(name):
    with pytest.raises(UserError, match="no model called 'PatchConvNt'; did you mean 'PatchConvNet'"):
        registry.MODELS.get(name)


def test_a_name_like_nothing():
    with pytest.raises(UserError, match=r"no model called 'Zzz'\. Its parts are"):
        registry.MODELS.get('densevit.Zzz')


def test_names_of_others_pass_through():
    mmengine_model = registry.MODELS.get('mmengine.ImgDataPreprocessor')
    assert mmengine_model.__module__.startswith('mmengine')
    pytest.importorskip('mmseg')
    assert registry.MODELS.get('mmseg.FCNHead').__module__.startswith('mmseg')


def test_did_you_mean():
    assert did_you_mean('S6O', ['S60', 'L120']) == "; did you mean 'S60'?"
    assert did_you_mean('xyz', ['S60']) == ''
    assert did_you_mean('', []) == ''
