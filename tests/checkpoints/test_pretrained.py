"""``densevit.Pretrained`` has the last word, whoever owns it and whatever its children do."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, BaseModule, PretrainedInit, initialize
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from densevit import PatchConvNet, Pretrained
from densevit.backbones.base import Backbone
from densevit.checkpoints import CheckpointError
from densevit.config.mistakes import check_config
from densevit.engine.runner import build_runner
from densevit.errors import UserError
from tests.backbones.contract import fill
from tests.fresh import run_forked
from tests.scope import scope_restored

ARCH = dict(embed_dims=8, depth=2, stem_depth=2)
NORMAL = dict(type='Normal', layer=['Conv2d', 'Linear'], std=0.01)


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


# ---------------------------------------------------------------------------------------------- the owners
class Child(BaseModule):
    """Initializes by an init_cfg of its own."""

    def __init__(self) -> None:
        super().__init__(dict(type='Constant', layer='Linear', val=7.0, bias=7.0))
        self.layer = nn.Linear(3, 2)


class Plain(nn.Linear):
    """No mmengine module, so mmengine does not know whether it is initialized."""

    def init_weights(self) -> None:
        nn.init.constant_(self.weight, 5.0)


class WithChild(Backbone):
    """A backbone of ours with both."""

    ARCHS = {'only': {}}

    def __init__(self, init_cfg=None) -> None:
        super().__init__(num_stages=1, out_indices=(0,), frozen_stages=-1, with_cp=False, attn_backend='auto',
                         init_cfg=init_cfg)  # fmt: skip
        self.first, self.child, self.plain = nn.Linear(2, 3), Child(), Plain(3, 3)

    def init_weights(self) -> None:
        if not self.is_init:
            nn.init.constant_(self.first.weight, 3.0)
        super().init_weights()


@MODELS.register_module(force=True)
class PretrainedToy(BaseModel):
    """A whole model, for the runner."""

    def __init__(self, init_cfg=None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.child, self.plain = Child(), Plain(3, 3)

    def forward(self, *args, **kwargs):
        return {}


class Headstrong(BaseModule):
    """Takes an init_cfg for its own to load, as mm's Swin, PVT and PIDNet do."""

    def __init__(self, init_cfg=None) -> None:
        super().__init__(init_cfg)
        self.layer = nn.Linear(2, 3)

    def init_weights(self) -> None:
        assert self.init_cfg is None or isinstance(self.init_cfg, list), 'this loader does not look at the type'
        nn.init.normal_(self.layer.weight)


def _segmentor(init_cfg=None, backbone=None):
    pytest.importorskip('mmseg')
    from mmseg.registry import MODELS

    init_default_scope('mmseg')
    return MODELS.build(dict(
        type='EncoderDecoder', backbone=backbone or dict(type='densevit.PatchConvNet', arch=ARCH),
        decode_head=dict(type='FCNHead', in_channels=8, in_index=0, channels=4, num_classes=3, num_convs=1),
        init_cfg=init_cfg,
    ))  # fmt: skip


def _detector(init_cfg=None):
    pytest.importorskip('mmdet')
    from mmdet.registry import MODELS

    from densevit.config.reading import load_config

    init_default_scope('mmdet')
    cfg = load_config('mask_rcnn_patchconvnet-tiny_scenes').model
    cfg.backbone.arch.depth = 1
    return MODELS.build({**cfg, 'init_cfg': init_cfg})


def _resnet(init_cfg=None):
    pytest.importorskip('mmseg')
    from mmseg.registry import MODELS

    init_default_scope('mmseg')
    return MODELS.build(dict(type='ResNet', depth=18, base_channels=4, stem_channels=4, init_cfg=init_cfg))


def _pidnet(init_cfg=None):
    pytest.importorskip('mmseg')
    from mmseg.registry import MODELS

    init_default_scope('mmseg')
    return MODELS.build(dict(type='PIDNet', channels=4, ppm_channels=8, num_stem_blocks=1, num_branch_blocks=1,
                             init_cfg=init_cfg))  # fmt: skip


OWNERS = {
    'backbone': lambda init_cfg=None: PatchConvNet(ARCH, init_cfg=init_cfg),
    'backbone with child': WithChild,
    'toy': PretrainedToy,
    'headstrong': Headstrong,
    'EncoderDecoder': _segmentor,
    'MaskRCNN': _detector,
    'mm ResNet': _resnet,
    'mm PIDNet': _pidnet,
}
every_owner = pytest.mark.parametrize('build', OWNERS.values(), ids=OWNERS)


def source_of(build, path, prefix: str = '') -> dict[str, torch.Tensor]:
    """Save weights that no initialization makes."""
    tensors = fill(build()).state_dict()
    torch.save({f'{prefix}{name}': t for name, t in tensors.items()} | ({'x.y': torch.ones(1)} if prefix else {}), path)
    return tensors


def loaded(model: nn.Module, tensors: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == tensors.keys() and all(torch.equal(own[name], t) for name, t in tensors.items())


# ------------------------------------------------------------------------------------------ the last word
@every_owner
def test_after_the_children(tmp_path, build):
    tensors = source_of(build, tmp_path / 'w.pth')
    init_cfg = dict(type='densevit.Pretrained', checkpoint=str(tmp_path / 'w.pth'))
    model = build(init_cfg=init_cfg)
    assert not loaded(model, tensors)
    model.init_weights()
    assert loaded(model, tensors)
    assert model.init_cfg == init_cfg
    model.init_weights()
    assert loaded(model, tensors)
    # it was no accident: without it the children, or the owner, have other weights
    plain = build()
    plain.init_weights()
    assert not loaded(plain, tensors)


@pytest.mark.parametrize('owner', [name for name in OWNERS if name != 'mm PIDNet'])  # it takes no list at all
@pytest.mark.parametrize('place', [0, 1, 2])
def test_wherever_it_stands_in_a_list(tmp_path, owner, place):
    build = OWNERS[owner]
    tensors = source_of(build, tmp_path / 'w.pth')
    others = [dict(NORMAL), dict(type='Constant', layer='Conv2d', val=3.0)]
    others.insert(place, dict(type='densevit.Pretrained', checkpoint=str(tmp_path / 'w.pth')))
    model = build(init_cfg=others)
    model.init_weights()
    assert loaded(model, tensors)


def test_the_others_of_a_list_run():
    model = WithChild(init_cfg=[dict(type='Constant', layer='Linear', val=2.0)])
    model.init_weights()
    assert (model.first.weight == 2).all() and (model.child.layer.weight == 7).all()


@every_owner
@pytest.mark.parametrize('prefix', ['encoder.q', 'encoder.q.'])
def test_prefix(tmp_path, build, prefix):
    tensors = source_of(build, tmp_path / 'w.pth', 'encoder.q.')
    model = build(init_cfg=dict(type='densevit.Pretrained', checkpoint=str(tmp_path / 'w.pth'), prefix=prefix))
    model.init_weights()
    assert loaded(model, tensors)


@pytest.mark.parametrize('kind', ['mmengine', 'mmseg', 'mmdet'])
@pytest.mark.parametrize('given', ['dict', 'list', 'class'])
def test_from_the_runner_in_any_scope(tmp_path, kind, given):
    pytest.importorskip(kind)
    tensors = source_of(PretrainedToy, tmp_path / 'w.pth')
    init_cfg = dict(type='densevit.Pretrained', checkpoint=str(tmp_path / 'w.pth'))
    init_cfg = {'dict': init_cfg, 'list': [init_cfg, NORMAL], 'class': {**init_cfg, 'type': Pretrained}}[given]
    model = dict(type='mmengine.PretrainedToy', init_cfg=init_cfg)
    runner = build_runner(Config(dict(model=model, work_dir=str(tmp_path), default_scope=kind)))
    for _ in range(2):
        runner._init_model_weights()
        assert loaded(runner.model, tensors)


def test_owner_in_owner(tmp_path):
    """The outer one has the last word, as with mmengine's own."""
    inner, outer = tmp_path / 'inner.pth', tmp_path / 'outer.pth'
    source_of(OWNERS['backbone'], inner)
    build = lambda **more: _segmentor(backbone=dict(  # noqa: E731
        type='densevit.PatchConvNet', arch=ARCH, init_cfg=dict(type='densevit.Pretrained', checkpoint=str(inner))
    ), **more)  # fmt: skip
    model = build()
    model.init_weights()
    assert loaded(model.backbone, torch.load(inner))
    head = copy.deepcopy(model.decode_head.state_dict())
    assert head['conv_seg.weight'].std() < 0.02  # by the head's own init_cfg

    tensors = {name: t + 1 for name, t in source_of(_segmentor, outer).items()}
    torch.save(tensors, outer)
    model = build(init_cfg=dict(type='densevit.Pretrained', checkpoint=str(outer)))
    model.init_weights()
    assert loaded(model, tensors)


def test_classes_that_are_defined_later_and_call_up(tmp_path):
    class Later(WithChild):
        def init_weights(self):
            super().init_weights()
            nn.init.zeros_(self.first.weight)

    tensors = source_of(Later, tmp_path / 'w.pth')
    model = Later(init_cfg=dict(type='densevit.Pretrained', checkpoint=str(tmp_path / 'w.pth')))
    model.init_weights()
    assert loaded(model, tensors)


@pytest.mark.parametrize('kind', ['Pretrained', 'mmengine.Pretrained', PretrainedInit])
def test_mmengines_name_means_the_same_in_our_backbones(tmp_path, kind):
    tensors = source_of(WithChild, tmp_path / 'w.pth')
    cfg = dict(type=kind, checkpoint=str(tmp_path / 'w.pth'), map_location='cpu')
    for init_cfg in (cfg, [NORMAL, cfg], (cfg, NORMAL)):
        model = WithChild(init_cfg=init_cfg)
        model.init_weights()
        assert loaded(model, tensors)


# -------------------------------------------------------------------------------- nothing is left random
@every_owner
def test_a_file_that_does_not_fit(tmp_path, build):
    source_of(build, tmp_path / 'w.pth')
    tensors = torch.load(tmp_path / 'w.pth')
    whole = dict(tensors)
    lost = next(name for name in reversed(tensors) if name.endswith('weight'))
    del tensors[lost]
    torch.save(tensors, tmp_path / 'w.pth')
    model = build(init_cfg=dict(type='densevit.Pretrained', checkpoint=str(tmp_path / 'w.pth')))
    for _ in range(2):  # the second try is not taken for done
        with pytest.raises(CheckpointError, match='1 missing'):
            model.init_weights()
    torch.save(whole, tmp_path / 'w.pth')
    model.init_weights()
    assert loaded(model, whole)


def test_no_file(tmp_path):
    model = _segmentor(init_cfg=dict(type='densevit.Pretrained', checkpoint=str(tmp_path / 'absent.pth')))
    with pytest.raises(CheckpointError, match=r'absent\.pth. does not exist'):
        model.init_weights()


@pytest.mark.parametrize('owner', ['backbone', 'EncoderDecoder'])
@pytest.mark.parametrize(
    ('more', 'named'),
    [
        (dict(checkpoint='w.pth', prefx='a'), 'prefx'),
        (dict(), 'checkpoint=PATH_OR_URL'),
        (dict(checkpoint='w.pth', prefix='trunk'), "prefix='trunk.'"),
        (dict(checkpoint='w.pth', sha256='01234567'), 'instead of 01234567'),
    ],
)
def test_mistakes(tmp_path, monkeypatch, owner, more, named):
    monkeypatch.chdir(tmp_path)
    source_of(OWNERS[owner], 'w.pth')
    with pytest.raises(UserError, match=named):
        OWNERS[owner](init_cfg=dict(type='densevit.Pretrained', **more)).init_weights()


def test_configs_are_checked():
    model = dict(type='EncoderDecoder', init_cfg=dict(type='densevit.Pretrained', checkpoint='w.pth', sha256='ab'))
    check_config(Config(dict(model=model, default_scope='mmseg')))
    model['init_cfg']['prefx'] = 'a'
    with pytest.raises(UserError, match=r"model\.init_cfg.*'prefx'; did you mean 'prefix'"):
        check_config(Config(dict(model=model, default_scope='mmseg')))


# ------------------------------------------------------------------------------------------ how it is told
def test_the_report_is_logged(tmp_path):
    source_of(WithChild, tmp_path / 'w.pth')
    logger = MMLogger.get_instance('pretrained')
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    try:
        WithChild(init_cfg=dict(type='densevit.Pretrained', checkpoint=str(tmp_path / 'w.pth'))).init_weights()
    finally:
        logger.removeHandler(handler)
    assert f'WithChild: {tmp_path}/w.pth: densevit: loaded 6 of 6 tensors' in records


def test_as_a_plain_initializer(tmp_path):
    """Outside of any init_weights it loads at once."""
    model, cfg = nn.Linear(2, 3), dict(type='densevit.Pretrained', checkpoint=str(tmp_path / 'w.pth'))
    tensors = source_of(lambda: nn.Linear(2, 3), tmp_path / 'w.pth')
    initialize(model, cfg)
    assert loaded(model, tensors)


OUTSIDE = """
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
{before}
init_default_scope('mmseg')
model = MODELS.build(dict(
    type='EncoderDecoder', backbone={backbone}, init_cfg=dict(type='densevit.Pretrained', checkpoint={path!r}),
    decode_head=dict(type='FCNHead', in_channels=8, in_index=0, channels=4, num_classes=3, num_convs=1)))
try:
    model.init_weights()
    print('sum', round(model.decode_head.conv_seg.weight.sum().item(), 3))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize('how', ['our backbone', 'import', 'neither'])
def test_in_a_program_that_knows_nothing_of_densevit(tmp_path, how):
    """There mmengine finds it by its scope: before the children are initialized, or never in silence."""
    pytest.importorskip('mmseg')
    resnet = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
    backbone = dict(type='densevit.PatchConvNet', arch=ARCH) if how == 'our backbone' else resnet
    path = tmp_path / 'w.pth'
    tensors = source_of(lambda: _segmentor(backbone=dict(backbone)), path)
    before = 'import densevit.checkpoints' if how == 'import' else ''
    printed = run_forked(OUTSIDE.format(before=before, backbone=backbone, path=str(path))).splitlines()[-1]
    if how == 'neither':
        assert printed.startswith('UserError') and 'import densevit.checkpoints' in printed
    else:
        assert printed == f'sum {round(tensors["decode_head.conv_seg.weight"].sum().item(), 3)}'
