"""Every shipped config builds, has the size that it states, and its tiny ones train."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData

from densevit.engine.config import load_config
from densevit.registry import PARTS
from tests.backbones.contract import assert_trains, images

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
FILES = sorted(CONFIGS.glob('*.py'))
BASES = sorted(CONFIGS.glob('_base_/*/*.py'))
# how many there are of each (method, backbone, dataset); a new family adds its line
KNOWN = {
    ('upernet', 'patchconvnet', 'ade20k'): 6,
    ('mask_rcnn', 'patchconvnet', 'coco'): 6,
    ('upernet', 'patchconvnet', 'camvid'): 1,
    ('mask_rcnn', 'patchconvnet', 'nuclei'): 1,
    ('upernet', 'patchconvnet', 'scenes'): 1,
    ('mask_rcnn', 'patchconvnet', 'scenes'): 1,
}
NAME = re.compile(r'(upernet|mask_rcnn|semfpn)_([a-z0-9]+)(?:-([a-z0-9]+))?_([a-z0-9]+)')


def parts_of(file: Path) -> tuple[str, str, str, str]:
    method, backbone, variant, dataset = NAME.fullmatch(file.stem).groups()
    return method, backbone, variant or '', dataset


def build(cfg: Config, device: str = 'meta'):
    """The model of a config, built in its scope; the scope of other tests stays."""
    scope = cfg.default_scope
    from mmengine.registry import MODELS

    with DefaultScope.overwrite_default_scope(scope), torch.device(device):
        return MODELS.build(cfg.model)


def test_all_are_found():
    found: dict[tuple[str, str, str], int] = {}
    for file in FILES:
        method, backbone, _, dataset = parts_of(file)
        found[method, backbone, dataset] = found.get((method, backbone, dataset), 0) + 1
    assert found == KNOWN
    assert len(FILES) == sum(KNOWN.values()) >= 16
    assert len(BASES) >= 14


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_builds_and_counts(file, shared_facts):
    cfg = load_config(file)
    model = build(cfg)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert all(parameter.is_meta for parameter in model.parameters())

    backbone, necks = model.backbone, model.neck if isinstance(model.neck, torch.nn.Sequential) else [model.neck]
    assert list(necks[0].out_channels) == [backbone.out_channels[-1]] * len(necks[0].scales)
    strides = [backbone.out_strides[-1] / scale for scale in necks[0].scales]
    assert strides == [4, 8, 16, 32]

    method, family, variant, dataset = parts_of(file)
    if method == 'upernet':
        assert list(model.decode_head.in_channels) == list(necks[0].out_channels)
        for head in [model.auxiliary_head] if model.with_auxiliary_head else []:
            assert head.in_channels == necks[0].out_channels[head.in_index]
        classes = {each['num_classes'] for each in (cfg.model.decode_head, cfg.model.get('auxiliary_head')) if each}
    else:
        fpn = necks[1]
        assert list(fpn.in_channels) == list(necks[0].out_channels)
        heads = (model.rpn_head, model.roi_head.bbox_head, model.roi_head.mask_head)
        assert {head.in_channels for head in heads} == {fpn.out_channels}
        generated = [stride[0] for stride in model.rpn_head.prior_generator.strides]
        assert generated == [4, 8, 16, 32, 64][: fpn.num_outs]
        assert model.roi_head.bbox_roi_extractor.featmap_strides == [4, 8, 16, 32]
        classes = {model.roi_head.bbox_head.num_classes, model.roi_head.mask_head.num_classes}
    expected = {'ade20k': 150, 'coco': 80, 'camvid': 11, 'nuclei': 1, 'scenes': 13 if method == 'upernet' else 8}
    assert classes == {expected[dataset]}
    if 'metainfo' in cfg:
        assert len(cfg.metainfo.classes) == expected[dataset]
    weights = (cfg.model.get('decode_head') or {}).get('loss_decode', {}).get('class_weight')
    assert weights is None or len(weights) == expected[dataset]

    if dataset in ('ade20k', 'coco'):
        assert family == 'patchconvnet', 'name the counts of this family'
        counts = json.loads((shared_facts / 'manifests/_dense_counts.json').read_text())
        key = 'upernet_trunk_only' if method == 'upernet' else 'maskrcnn_trunk_only'
        assert total == counts[f'patchconvnet_{(variant or "s60").upper()}'][key]
        stated = float(re.search(r'^Parameters: ([\d.]+) M', docstring(file), flags=re.MULTILINE)[1])
        assert round(total / 1e6, 2) == stated


def docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text())) or ''


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_docstring_says_what_and_how(file):
    text = docstring(file)
    for command in re.findall(r'configs/[\w.-]+\.py', text):
        assert command == f'configs/{file.name}'
    assert re.search(r'^Command: .+', text, flags=re.MULTILINE), 'no line `Command: ...`'
    if parts_of(file)[3] in ('ade20k', 'coco'):
        for heading in ('Expected: ', 'Cost: ', 'Deviations: '):
            assert f'\n{heading}' in text


@pytest.mark.parametrize('file', BASES, ids=lambda file: file.stem)
def test_bases_say_what_they_are(file):
    assert docstring(file)


def depth(file: Path) -> int:
    bases = re.search(r'^_base_ = (\[.*?\]|.*?$)', file.read_text(), flags=re.MULTILINE | re.DOTALL)
    if bases is None:
        return 0
    bases = ast.literal_eval(bases[1])
    return 1 + max(depth(file.parent / base) for base in ([bases] if isinstance(bases, str) else bases))


def test_bases_are_at_most_two_deep_and_all_used():
    depths = {file.stem: depth(file) for file in FILES}
    assert max(depths.values()) <= 2
    assert min(depths.values()) >= 1
    text = ''.join(file.read_text() for file in (*FILES, *BASES))
    for file in BASES:
        assert file.name in text, f'{file} is used nowhere'


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_our_parts_exist_and_no_config_is_for_one_machine(file):
    text = Config.fromfile(file).pretty_text
    for name in re.findall(r"'densevit\.(\w+)'", text):
        assert name in PARTS
    assert 'SyncBN' not in text
    assert not re.search(r"'/\w", text), 'an absolute path'


# ------------------------------------------------------------------------------------------ a training step
@pytest.fixture
def tiny_segmentor():
    cfg = load_config(CONFIGS / 'upernet_patchconvnet-tiny_scenes.py')
    return build(cfg, 'cpu').train()


@pytest.fixture
def tiny_detector():
    cfg = load_config(CONFIGS / 'mask_rcnn_patchconvnet-tiny_scenes.py')
    return build(cfg, 'cpu').train()


def check_step(model, batch: dict, scope: str, missed: set[str] = frozenset()) -> dict:
    with DefaultScope.overwrite_default_scope(scope):
        losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    total.backward()
    names = {name for name, _ in model.named_parameters()}
    assert_trains(model, {name for name in names if name.startswith(('backbone.', 'neck.'))} - missed)
    silent = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not silent, 'DistributedDataParallel would wait for these'
    return losses


def test_a_step_of_upernet(tiny_segmentor):
    from mmseg.structures import SegDataSample

    height, width = 96, 160
    samples = []
    for _ in range(2):
        labels = torch.randint(0, 13, (1, height, width))
        sample = SegDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width)))
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    batch = dict(inputs=[(images(3, height, width) * 50 + 128).clamp(0, 255).byte()] * 2, data_samples=samples)
    losses = check_step(tiny_segmentor, batch, 'mmseg')
    assert 'decode.loss_ce' in losses


def test_a_step_of_mask_rcnn(tiny_detector):
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    height, width = 97, 160
    samples = []
    for _ in range(2):
        boxes = torch.tensor([[8.0, 10, 40, 50], [70, 20, 120, 90], [100, 5, 116, 17]])
        masks = np.zeros((3, height, width), dtype=np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = 1
        sample = DetDataSample(
            metainfo=dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.tensor([0, 3, 7]), masks=BitmapMasks(masks, height, width)
        )
        samples.append(sample)
    batch = dict(inputs=[(images(3, height, width) * 50 + 128).clamp(0, 255).byte()] * 2, data_samples=samples)
    losses = check_step(tiny_detector, batch, 'mmdet')
    assert {'loss_rpn_cls', 'loss_cls', 'loss_bbox', 'loss_mask'} <= set(losses)
