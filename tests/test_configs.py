"""Every shipped config builds, has the size and the recipe that it states, and small ones train and predict."""

from __future__ import annotations

import ast
import copy
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData

import densevit
from densevit.checkpoints import load_weights
from densevit.config.reading import load_config
from densevit.registry import PARTS
from tests.backbones.contract import assert_trains, fill, images

mmseg = pytest.importorskip('mmseg')
mmdet = pytest.importorskip('mmdet')

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
FILES = sorted(CONFIGS.glob('*.py'))
BASES = sorted(CONFIGS.glob('_base_/*/*.py'))
# how many there are of each (method, backbone, dataset); a new family adds its lines
KNOWN = {
    ('upernet', 'patchconvnet', 'ade20k'): 6,
    ('mask_rcnn', 'patchconvnet', 'coco'): 6,
    ('upernet', 'patchconvnet', 'camvid'): 2,
    ('mask_rcnn', 'patchconvnet', 'nuclei'): 1,
    ('upernet', 'patchconvnet', 'scenes'): 2,
    ('mask_rcnn', 'patchconvnet', 'scenes'): 2,
    ('semfpn', 'pvt', 'ade20k'): 4,
    ('upernet', 'pvt', 'ade20k'): 4,
    ('mask_rcnn', 'pvt', 'coco'): 4,
    ('semfpn', 'pvtv2', 'ade20k'): 7,
    ('upernet', 'pvtv2', 'ade20k'): 7,
    ('mask_rcnn', 'pvtv2', 'coco'): 9,
    ('upernet', 'swin', 'ade20k'): 6,
    ('mask_rcnn', 'swin', 'coco'): 7,
    ('cascade_mask_rcnn', 'swin', 'coco'): 3,
    ('upernet', 'swinv2', 'ade20k'): 12,
    ('mask_rcnn', 'swinv2', 'coco'): 12,
    ('upernet', 'cvt', 'ade20k'): 3,
    ('mask_rcnn', 'cvt', 'coco'): 3,
    ('upernet', 'timm', 'ade20k'): 13,
    ('semfpn', 'timm', 'ade20k'): 5,
    ('mask_rcnn', 'timm', 'coco'): 3,
}
NAME = re.compile(r'(upernet|semfpn|mask_rcnn|cascade_mask_rcnn)_([a-z0-9]+)(?:-([a-z0-9-]+))?_([a-z0-9]+)')


def parts_of(file: Path) -> tuple[str, str, str, str]:
    method, backbone, variant, dataset = NAME.fullmatch(file.stem).groups()
    return method, backbone, variant or '', dataset


@cache
def config_of(file: Path) -> Config:
    """The checked config, read once; nobody may change it."""
    return load_config(file)


def build(cfg: Config, device: str = 'meta'):
    """The model of a config, built in its scope; the scope of other tests stays."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device(device):
        return MODELS.build(copy.deepcopy(cfg.model))  # mmdet's detectors write into it


def docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text())) or ''


def entry(file: Path, heading: str) -> str:
    """What a config's docstring says under a heading, on one line."""
    found = re.search(rf'^{heading}: (.+(?:\n    .+)*)', docstring(file), flags=re.MULTILINE)
    assert found, f'no line `{heading}: ...`'
    return re.sub(r'\n +', ' ', found[1])


each_file = pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
PUBLISHED = [file for file in FILES if parts_of(file)[3] in ('ade20k', 'coco')]
NEW = [file for file in PUBLISHED if parts_of(file)[1] != 'patchconvnet']


def test_all_are_found():
    found: dict[tuple[str, str, str], int] = {}
    for file in FILES:
        method, backbone, _, dataset = parts_of(file)
        found[method, backbone, dataset] = found.get((method, backbone, dataset), 0) + 1
    assert found == KNOWN
    assert len(FILES) == sum(KNOWN.values()) >= 110
    assert len(BASES) >= 17
    assert len(NEW) == 102


# ------------------------------------------------------------------------------------------ the parts fit
@each_file
def test_builds_and_counts(file, shared_facts):
    cfg = config_of(file)
    model = build(cfg)
    assert all(parameter.is_meta for parameter in model.parameters())
    method, family, variant, dataset = parts_of(file)

    channels, strides, fpn = levels_of(model)
    own = f'timm-{variant}' if family == 'timm' else family
    assert strides == {'cvt': [4, 8, 16], 'timm-pit-s': [8, 16, 32]}.get(own, [4, 8, 16, 32])
    assert fpn is None or list(fpn.in_channels) == channels
    check = {'upernet': check_upernet, 'semfpn': check_semfpn}.get(method, check_mask_rcnn)
    classes = check(model, channels, strides, fpn)
    expected = {'ade20k': 150, 'coco': 80, 'camvid': 11, 'nuclei': 1, 'scenes': 13 if method == 'upernet' else 8}
    assert classes == {expected[dataset]}
    if 'metainfo' in cfg:
        assert len(cfg.metainfo.classes) == expected[dataset]
    weights = (cfg.model.get('decode_head') or {}).get('loss_decode', {}).get('class_weight')
    assert weights is None or len(weights) == expected[dataset]

    if file in PUBLISHED:
        total = count(model)
        assert f'{total / 1e6:.2f}' == re.match(r'[\d.]+(?= M)', entry(file, 'Parameters'))[0]
        known = counted_elsewhere(file, shared_facts)
        assert total == known or (known is None and re.search('swin-.-w12|swinv2|cvt|cascade|timm', file.stem))
    if family == 'timm':
        check_timm(cfg, entry(file, 'Weights'))
    elif file in NEW:
        check_weights(model, entry(file, 'Weights'), shared_facts)
    if file in NEW and method != 'semfpn':
        if method == 'upernet':
            heads = upernet_heads(channels, strides.index(16))
        else:
            heads = mask_rcnn_heads(channels, method != 'mask_rcnn')
        assert total == count(model.backbone) + adapter_of(model) + heads


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def adapter_of(model) -> int:
    """Parameters of the part that makes levels of a column."""
    return sum(count(module) for module in model.modules() if type(module).__name__ == 'ColumnarPyramid')


def levels_of(model):
    """Channels and strides of the maps that the heads or the FPN get, and the FPN or None."""
    channels, strides = list(model.backbone.out_channels), list(model.backbone.out_strides)
    if not model.with_neck:
        return channels, strides, None
    necks = list(model.neck) if isinstance(model.neck, torch.nn.Sequential) else [model.neck]
    if type(necks[0]).__name__ == 'ColumnarPyramid':
        pyramid = necks.pop(0)
        assert list(pyramid.out_channels) == [channels[-1]] * len(pyramid.scales)
        channels, strides = list(pyramid.out_channels), [strides[-1] / scale for scale in pyramid.scales]
    assert len(necks) <= 1
    return channels, strides, necks[0] if necks else None


def check_upernet(model, channels, strides, fpn) -> set[int]:
    assert fpn is None
    assert list(model.decode_head.in_channels) == channels
    heads = [model.decode_head]
    if model.with_auxiliary_head:
        heads.append(model.auxiliary_head)
        assert model.auxiliary_head.in_channels == channels[model.auxiliary_head.in_index]
        assert strides[model.auxiliary_head.in_index] == 16
    return {head.num_classes for head in heads}


def check_semfpn(model, channels, strides, fpn) -> set[int]:
    assert fpn.num_outs == len(strides)
    assert list(model.decode_head.in_channels) == [fpn.out_channels] * fpn.num_outs
    assert list(model.decode_head.feature_strides) == strides
    assert not model.with_auxiliary_head
    return {model.decode_head.num_classes}


def check_mask_rcnn(model, channels, strides, fpn) -> set[int]:
    roi_heads = model.roi_head
    cascade = isinstance(roi_heads.bbox_head, torch.nn.ModuleList)
    boxes = list(roi_heads.bbox_head) if cascade else [roi_heads.bbox_head]
    masks = list(roi_heads.mask_head) if cascade else [roi_heads.mask_head]
    assert {head.in_channels for head in (model.rpn_head, *boxes, *masks)} == {fpn.out_channels}
    assert [stride[0] for stride in model.rpn_head.prior_generator.strides] == [4, 8, 16, 32, 64][: fpn.num_outs]
    extractors = roi_heads.bbox_roi_extractor if cascade else [roi_heads.bbox_roi_extractor]
    for extractor in extractors:
        assert extractor.featmap_strides == [4, 8, 16, 32]
        assert extractor.out_channels == fpn.out_channels
    return {head.num_classes for head in (*boxes, *masks)}


def counted_elsewhere(file: Path, facts: Path) -> int | None:
    """The total that was counted from the definitions of the original modules, where it was."""
    counts = json.loads((facts / 'manifests/_dense_counts.json').read_text())
    method, family, variant, _ = parts_of(file)
    variant = variant.removesuffix('3x').removesuffix('1x').strip('-').replace('-', '_')
    sizes = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large'}
    name = {
        'patchconvnet': f'patchconvnet_{(variant or "s60").upper()}',
        'pvt': f'pvt_{variant or "small"}',
        'pvtv2': f'pvtv2_{variant or "b2"}',
        'swin': f'swin_{sizes.get(variant or "t")}',
    }.get(family)
    key = method.replace('_', '') + ('_trunk_only' if family == 'patchconvnet' else '')
    return counts.get(name, {}).get(key)


def upernet_heads(channels: list[int], auxiliary_index: int) -> int:
    """Parameters of UPerHead (512) on maps of these channels, and of FCNHead (256) on one of them, 150 classes."""

    def conv(inputs: int, outputs: int, side: int) -> int:
        return inputs * outputs * side**2 + 2 * outputs  # with BatchNorm, without bias

    *fine, coarse = channels
    pyramid = sum(conv(each, 512, 1) + conv(512, 512, 3) for each in fine)
    pooling = 4 * conv(coarse, 512, 1) + conv(coarse + 4 * 512, 512, 3)
    decoded = conv(len(channels) * 512, 512, 3) + (512 + 1) * 150
    auxiliary = conv(channels[auxiliary_index], 256, 3) + (256 + 1) * 150
    return pyramid + pooling + decoded + auxiliary


def mask_rcnn_heads(channels: list[int], cascade: bool) -> int:
    """Parameters of FPN (256) on maps of these channels, of RPN, and of box and mask heads for 80 classes."""

    def conv(inputs: int, outputs: int, side: int) -> int:
        return inputs * outputs * side**2 + outputs

    fpn = sum(conv(each, 256, 1) + conv(256, 256, 3) for each in channels)
    rpn = conv(256, 256, 3) + conv(256, 3, 1) + conv(256, 12, 1)
    mask = 4 * conv(256, 256, 3) + conv(256, 256, 2) + conv(256, 80, 1)
    first, last = conv(256, 1024, 7), conv(1024, 81, 1) + conv(1024, 320, 1)
    if cascade:  # three stages, four convolutions with BatchNorm before a single hidden layer
        return fpn + rpn + 3 * (4 * (conv(256, 256, 3) + 256) + first + last + mask)
    return fpn + rpn + first + conv(1024, 1024, 1) + last + mask


def check_weights(model, weights: str, facts: Path) -> None:
    """The official files that a config names fit the whole model, as ``--load-from`` takes them."""
    named = re.findall(r'[\w-]+(?=\.pth)|CvT-\d+', weights)
    assert named
    for name in named:
        name = {'CvT-13': 'cvt_13_224', 'CvT-21': 'cvt_21_224', 'CvT-w24-384x384-IN-22k': 'cvt_w24_384'}.get(name, name)
        file = facts / f'manifests/{name.replace("pvt_v2", "pvtv2")}.json'
        if not file.exists():  # pre-training on more classes changes the classifier's head only
            file = file.with_name(f'{file.stem.removesuffix("_22k")}.json')
        shapes = json.loads(file.read_text())
        report = load_weights(model, {key: torch.empty(shape, device='meta') for key, shape in shapes.items()})
        kept = [key.removeprefix('backbone.') for key in report.kept if key.startswith('backbone.')]
        assert all(model.backbone.DENSE_ONLY.match(key) for key in kept)
        assert report.loaded and all(key.startswith('backbone.') for key in report.loaded)
    windows = re.search(r'swinv2_\w+?_window(\d+)(?:to(\d+))?_(\d+)', weights)
    if windows:
        first, last, pixels = (int(group) if group else 0 for group in windows.groups())
        side = model.backbone.window_size
        assert side == (last or first)
        # distances were learned in windows of this size; in the last stage, in the whole map where that is smaller
        learned = (first, first, first, min(first, pixels // 32))
        assert tuple(size or side for size in model.backbone.pretrained_window_sizes) == learned


def check_timm(cfg: Config, weights: str) -> None:
    """A config names the weights that timm fetches, and normalizes images as these were trained."""
    found = timm.get_pretrained_cfg(cfg.model.backbone.model_name)
    assert weights.startswith(f'{found.architecture}.{found.tag} (')
    for key in ('mean', 'std'):
        assert cfg.model.data_preprocessor[key] == pytest.approx([255 * value for value in getattr(found, key)])


# --------------------------------------------------------------------------------------------- the recipes
# files, learning rate, weight decay, iterations or epochs, images per update, stochastic depth; the first that fits
RECIPES = [
    ('semfpn_pvt.*', 2e-4, 1e-4, 40000, 32, 0.1),
    ('upernet_(pvt.*|cvt_.*|cvt-21_.*)', 6e-5, 0.01, 160000, 16, 0.1),
    ('upernet_(swin.*|cvt-w24_.*)', 6e-5, 0.01, 160000, 16, 0.3),
    ('mask_rcnn_pvt-medium_coco', 2e-4, 1e-4, 12, 16, 0.0),
    ('mask_rcnn_pvt-large_coco', 2e-4 / 1.4, 1e-4, 12, 8, 0.0),
    ('mask_rcnn_pvtv2-b[45]_coco', 2e-4 / 1.4, 1e-4, 12, 8, 0.1),
    ('mask_rcnn_pvtv2-(b0-)?3x_coco', 1e-4, 0.05, 36, 16, 0.1),
    ('mask_rcnn_pvt.*', 2e-4, 1e-4, 12, 16, 0.1),
    ('mask_rcnn_swin-1x_coco', 1e-4, 0.05, 12, 16, 0.1),
    ('(cascade_)?mask_rcnn_swin(v2)?-[bl](-.*)?_coco', 1e-4, 0.05, 36, 16, 0.3),
    ('(cascade_)?mask_rcnn_swin.*', 1e-4, 0.05, 36, 16, 0.2),
    ('mask_rcnn_cvt-w24_coco', 1e-4, 0.05, 36, 16, 0.3),
    ('mask_rcnn_cvt.*', 1e-4, 0.05, 36, 16, 0.1),
    ('upernet_timm-(vit|deit|cait|pit|nfnet)-.*', 6e-5, 0.01, 160000, 16, 0.1),
    ('upernet_timm-xcit-.*', 6e-5, 0.01, 160000, 16, 0.05),
    ('upernet_timm-(twins|mvitv2|efficientnetv2)-.*', 6e-5, 0.01, 160000, 16, 0.2),
    ('upernet_timm-(resnet|resnetrs|bit)-.*', 6e-5, 0.01, 160000, 16, 0.0),
    ('semfpn_timm-xcit-.*', 6e-5, 0.01, 80000, 16, 0.05),
    ('semfpn_timm-twins-.*', 2e-4, 1e-4, 40000, 32, 0.2),
    ('semfpn_timm-(resnet-50|mobilenetv2)_.*', 2e-4, 1e-4, 40000, 32, 0.0),
    ('mask_rcnn_timm-xcit-.*', 1e-4, 0.05, 36, 16, 0.05),
    ('mask_rcnn_timm-mvitv2-.*', 1e-4, 0.05, 36, 16, 0.2),
    ('mask_rcnn_timm-resnet-.*', 1e-4, 0.05, 36, 16, 0.0),
]


@pytest.mark.parametrize('file', NEW, ids=lambda file: file.stem)
def test_recipe(file):
    cfg = config_of(file)
    rate, decay, length, batch, depth = next(row[1:] for row in RECIPES if re.fullmatch(row[0], file.stem))
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(rate)
    assert cfg.optim_wrapper.optimizer.weight_decay == decay
    assert cfg.auto_scale_lr.base_batch_size == batch == 8 * cfg.train_dataloader.batch_size
    assert f'8 GPUs x {batch // 8} image' in entry(file, 'Cost')
    assert cfg.model.backbone.drop_path_rate == depth
    last = cfg.param_scheduler[-1]
    if cfg.default_scope == 'mmseg':
        assert cfg.train_cfg.max_iters == last.end == length
        warm_up = 0 if length == 40000 else 1500
    else:
        assert cfg.train_cfg.max_epochs == last.end == length
        assert last.milestones == ([8, 11] if length == 12 else [27, 33])
        warm_up = 500
        # PVT's recipe alone has images of one size
        several = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomChoice']
        assert bool(several) == (decay != 1e-4)
    assert [scheduler.end for scheduler in cfg.param_scheduler[:-1]] == ([warm_up] if warm_up else [])
    assert cfg.model.backbone.get('norm_eval', False) == bool(re.search('_cvt|-(res|efficient|mobile)net', file.stem))


# what does not decay, as the originals name it; the heads of Mask R-CNN have no norm
UNDECAYED = {
    'semfpn_pvt_ade20k': None,
    'semfpn_pvtv2_ade20k': None,
    'mask_rcnn_pvt_coco': None,
    'mask_rcnn_pvtv2_coco': None,
    'mask_rcnn_pvtv2-3x_coco': 'norm',
    'upernet_pvt_ade20k': r'norm|\.bn\.|pos_embed',
    'upernet_pvtv2_ade20k': r'norm|\.bn\.',
    'upernet_swin_ade20k': 'norm|relative_position_bias_table',
    'mask_rcnn_swin_coco': 'norm|relative_position_bias_table',
    'cascade_mask_rcnn_swin_coco': 'norm|relative_position_bias_table',
    'upernet_swinv2_ade20k': 'norm|cpb_mlp|logit_scale',
    'mask_rcnn_swinv2_coco': 'norm|cpb_mlp|logit_scale',
    'upernet_cvt_ade20k': r'norm|\.bn\.',
    'mask_rcnn_cvt_coco': r'norm|\.bn\.',
    'upernet_timm-deit-s_ade20k': r'norm|\.bn\.|neck\.fpn1\.1\.|pos_embed|cls_token',
    'upernet_timm-cait-s24_ade20k': r'norm|\.bn\.|neck\.fpn1\.1\.|pos_embed',
    'mask_rcnn_timm-resnet-50_coco': r'\.bn\d\.|downsample\.1\.',
    'upernet_timm-twins-svt-s_ade20k': 'norm|pos_block',
    'upernet_timm-xcit-s12_ade20k': 'norm',
    'mask_rcnn_timm-xcit-s12_coco': 'norm',
    'upernet_timm-pit-s_ade20k': r'norm|\.bn\.|pos_embed|cls_token',
    'upernet_timm-nfnet-f0_ade20k': r'\.bn\.|gain',
    'upernet_timm-bit-50x1_ade20k': r'norm|\.bn\.',
    'mask_rcnn_timm-mvitv2-t_coco': r'norm|rel_pos',
}


@pytest.mark.parametrize('stem', UNDECAYED)
def test_what_decays(stem):
    cfg = config_of(CONFIGS / f'{stem}.py')
    model = build(cfg)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    free = {id(parameter) for group in groups if group['weight_decay'] == 0 for parameter in group['params']}
    found = {name for name, parameter in model.named_parameters() if id(parameter) in free}
    pattern = UNDECAYED[stem]
    expected = {name for name, _ in model.named_parameters() if pattern and re.search(pattern, name)}
    assert found == expected
    assert all(any(re.search(part, name) for name in found) for part in (pattern or '').split('|') if part)


# ------------------------------------------------------------------------------------ docstrings and bases
@each_file
def test_docstring_says_what_and_how(file):
    text = docstring(file)
    for command in re.findall(r'configs/[\w.-]+\.py', text):
        assert command == f'configs/{file.name}'
    assert entry(file, 'Command')
    if file in PUBLISHED:
        expected = entry(file, 'Expected')
        assert 'none' in expected or 'reported by' in expected
        assert entry(file, 'Cost')
        for other in re.findall(r'[\w-]+\.py', entry(file, 'Deviations')):
            assert (CONFIGS / other).is_file()


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


@each_file
def test_our_parts_exist_and_no_config_is_for_one_machine(file):
    text = str(config_of(file).to_dict())
    names = re.findall(r"'densevit\.(\w+)'", text)
    assert names and set(names) <= set(PARTS)
    assert 'SyncBN' not in text
    assert not re.search(r"'/\w", text), 'an absolute path'


def test_aligned_pipelines_are_the_plain_ones_with_a_step_more():
    plain, aligned = (config_of(CONFIGS / f'{stem}_ade20k.py') for stem in ('upernet_pvtv2', 'semfpn_pvtv2'))
    step = dict(type='ResizeToMultiple', size_divisor=32)
    assert aligned.test_pipeline == [*plain.test_pipeline[:2], step, *plain.test_pipeline[2:]]
    assert aligned.test_dataloader.dataset.pipeline == aligned.test_pipeline
    assert aligned.val_dataloader.dataset.pipeline == aligned.test_pipeline
    sizes, *rest = plain.tta_pipeline[1].transforms
    assert aligned.tta_pipeline[1].transforms == [sizes, [step], *rest]


# ------------------------------------------------------------------ a step of training, and one of testing
# the class, and the smallest arch that has everything
TINY = {
    'pvt': (
        'PyramidVisionTransformer',
        dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4)),
    ),
    'pvtv2': (
        'PyramidVisionTransformerV2',
        dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4)),
    ),
    'swin': ('SwinTransformer', dict(embed_dims=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))),
    'swinv2': ('SwinTransformerV2', dict(embed_dims=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))),
    'cvt': ('CvT', dict(embed_dims=(8, 16, 24), depths=(1, 1, 2), num_heads=(1, 2, 3))),
}


def tiny_channels(family: str) -> list[int]:
    channels = TINY[family][1]['embed_dims']
    return [channels * 2**stage for stage in range(4)] if isinstance(channels, int) else list(channels)


def small_heads(cfg: Config, channels: list[int]) -> dict:
    """``--cfg-options`` that fit the heads of a config to maps of these channels, and make them small."""
    model, width = cfg.model, 16
    options = {}
    if 'neck' in model:
        options |= {'neck.in_channels': channels, 'neck.out_channels': width}
    if 'decode_head' in model:
        options['decode_head.channels'] = width
        options['decode_head.in_channels'] = [width] * 4 if 'neck' in model else channels
        options['decode_head.in_index'] = list(range(4 if 'neck' in model else len(channels)))
    if 'auxiliary_head' in model:
        options |= {'auxiliary_head.in_channels': channels[2], 'auxiliary_head.channels': width}
    if 'rpn_head' in model:
        options |= {'rpn_head.in_channels': width, 'rpn_head.feat_channels': width}
        options |= {f'roi_head.{part}_roi_extractor.out_channels': width for part in ('bbox', 'mask')}
        options |= {'roi_head.mask_head.in_channels': width, 'roi_head.mask_head.conv_out_channels': width}
        boxes = model.roi_head.bbox_head
        stages = [f'.{index}' for index in range(len(boxes))] if isinstance(boxes, list) else ['']
        for stage in stages:
            options |= {f'roi_head.bbox_head{stage}.{key}': width for key in ('in_channels', 'fc_out_channels')}
            if cfg.model.type == 'CascadeRCNN':
                options[f'roi_head.bbox_head{stage}.conv_out_channels'] = width
        # random weights find everything, everywhere
        options |= {'test_cfg.rpn.max_per_img': 20, 'test_cfg.rcnn.score_thr': 0.0, 'test_cfg.rcnn.max_per_img': 5}
    elif 'bbox_head' in model:
        options |= {'bbox_head.in_channels': width, 'bbox_head.feat_channels': width}
    return {f'model.{key}': value for key, value in options.items()}


def real_samples(cfg: Config, data: Path) -> dict:
    """``--cfg-options`` for the samples of ADE20K or COCO, at a size that a test can afford."""
    train, test = (f'{split}_dataloader.dataset' for split in ('train', 'val'))
    if cfg.default_scope == 'mmseg':
        return {
            'data_root': str(data / 'ade20k_samples'),
            'model.data_preprocessor.size': (64, 96),
            f'{train}.pipeline.2.scale': (400, 100),
            f'{train}.pipeline.3.crop_size': (64, 96),
            f'{test}.pipeline.1.scale': (400, 100),
        }
    small = [(160, 112), (160, 96)]
    options = {'data_root': str(data / 'coco_ccby'), f'{test}.pipeline.1.scale': (160, 112)}
    for split, dataset in (('train', train), ('val', test)):
        options[f'{dataset}.ann_file'] = f'annotations/instances_{split}.json'
        options[f'{dataset}.data_prefix.img'] = f'{split}/'
    steps = cfg.train_dataloader.dataset.pipeline
    if steps[2].type == 'Resize':
        options[f'{train}.pipeline.2.scale'] = small[0]
    else:
        choices = f'{train}.pipeline.3.transforms'
        options |= {f'{choices}.{place}.scales': small for place in ('0.0', '1.0', '1.2')}
        options[f'{choices}.1.1.crop_size'] = (64, 96)
    return options


def batch_of(cfg: Config, split: str, size: int) -> dict:
    """The first samples of a config's own dataset."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        return pseudo_collate([dataset[index] for index in range(size)])


def check_step(model, batch: dict, scope: str) -> dict:
    fill(model.backbone)  # the norms of Swin V2 begin at zero, and let no gradient pass
    model.train()
    with DefaultScope.overwrite_default_scope(scope):
        losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    total.backward()
    assert_trains(model.backbone)
    silent = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not silent, 'DistributedDataParallel would wait for these'
    return losses


def check_prediction(model, batch: dict, scope: str) -> None:
    model.eval()
    with DefaultScope.overwrite_default_scope(scope), torch.no_grad():
        (sample,) = model.test_step(batch)
    height, width = sample.ori_shape
    if scope == 'mmseg':
        assert sample.pred_sem_seg.data.shape == (1, height, width)
        assert sample.seg_logits.data.isfinite().all()
        return
    found = sample.pred_instances
    assert 0 < len(found) <= 5
    assert found.masks.shape == (len(found), height, width)
    assert found.bboxes.isfinite().all() and found.scores.isfinite().all()


STEPS = [f'{method}_{family}' for method, family, _ in KNOWN if family not in ('patchconvnet', 'timm')]


@pytest.mark.parametrize('stem', STEPS)
def test_steps_on_real_samples(stem, shared_data):
    (file,) = (file for file in FILES if file.stem in (f'{stem}_ade20k', f'{stem}_coco'))
    shipped = config_of(file)
    method, family, *_ = parts_of(file)
    options = {
        'model.backbone.arch': dict(_delete_=True, **TINY[family][1]),
        'model.backbone.drop_path_rate': 0.0,  # or a block might have no gradient
        **small_heads(shipped, tiny_channels(family)),
        **real_samples(shipped, shared_data),
    }
    cfg = load_config(file, options)
    model = build(cfg, 'cpu')
    losses = check_step(model, batch_of(cfg, 'train', 2), cfg.default_scope)
    expected = {
        'upernet': {'decode.loss_ce', 'aux.loss_ce'},
        'semfpn': {'decode.loss_ce'},
        'mask_rcnn': {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask'},
        'cascade_mask_rcnn': {'loss_rpn_cls', 'loss_rpn_bbox'}
        | {f's{stage}.loss_{part}' for stage in range(3) for part in ('cls', 'bbox', 'mask')},
    }
    assert {name for name in losses if 'loss' in name} == expected[method]
    batch = batch_of(cfg, 'val', 1)
    if stem in ('semfpn_pvt', 'semfpn_pvtv2', 'upernet_pvt'):
        assert all(side % 32 == 0 for side in batch['inputs'][0].shape[1:])
    check_prediction(model, batch, cfg.default_scope)


def segmentation_batch(num_classes: int) -> dict:
    from mmseg.structures import SegDataSample

    height, width = 96, 160
    samples = []
    for _ in range(2):
        labels = torch.randint(0, num_classes, (1, height, width))
        sample = SegDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width)))
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return dict(inputs=[(images(3, height, width) * 50 + 128).clamp(0, 255).byte()] * 2, data_samples=samples)


def detection_batch() -> dict:
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
    return dict(inputs=[(images(3, height, width) * 50 + 128).clamp(0, 255).byte()] * 2, data_samples=samples)


def test_a_step_of_upernet():
    model = build(config_of(CONFIGS / 'upernet_patchconvnet-tiny_scenes.py'), 'cpu')
    losses = check_step(model, segmentation_batch(13), 'mmseg')
    assert_trains(model.neck)
    assert 'decode.loss_ce' in losses


def test_a_step_of_mask_rcnn():
    model = build(config_of(CONFIGS / 'mask_rcnn_patchconvnet-tiny_scenes.py'), 'cpu')
    losses = check_step(model, detection_batch(), 'mmdet')
    assert_trains(model.neck)
    assert {'loss_rpn_cls', 'loss_cls', 'loss_bbox', 'loss_mask'} <= set(losses)


@pytest.mark.parametrize(
    ('stem', 'name'), [('upernet_timm-deit-s_ade20k', 'test_vit'), ('mask_rcnn_timm-resnet-50_coco', 'test_resnet')]
)
def test_a_step_on_timms_models(stem, name):
    shipped = config_of(CONFIGS / f'{stem}.py')
    channels = list(densevit.TimmBackbone(name).out_channels)
    options = {'model.backbone.model_name': name, 'model.backbone.drop_path_rate': 0.0}
    if name == 'test_vit':
        width = channels[0]
        small = small_heads(shipped, channels)
        del small['model.neck.out_channels']
        options |= {'model.neck.in_channels': width, 'model.auxiliary_head.in_channels': width}
        options = {**small, **options, 'model.decode_head.in_channels': [width] * 4}
    else:
        options |= small_heads(shipped, channels)
    model = build(load_config(CONFIGS / f'{stem}.py', options), 'cpu')
    check_step(model, segmentation_batch(150) if name == 'test_vit' else detection_batch(), shipped.default_scope)


# ---------------------------------------------------------------------- backbones in a user's plain config
PLAIN = """
default_scope = {scope!r}
_base_ = {base!r}
model = dict(backbone=dict(_delete_=True, type='densevit.{name}', arch={arch!r}, out_indices={out!r}))
"""


@pytest.mark.parametrize('family', TINY)
@pytest.mark.parametrize(
    'base', ['upernet_r50', 'fpn_r50', 'mask-rcnn_r50_fpn', 'cascade-mask-rcnn_r50_fpn', 'retinanet_r50_fpn']
)
def test_a_step_in_the_models_of_mmseg_and_mmdet(base, family, tmp_path):
    package = mmseg if base in ('upernet_r50', 'fpn_r50') else mmdet
    channels = tiny_channels(family)
    first = 1 if base.startswith('retinanet') else 0  # has no use for stride 4
    path = Path(package.__file__).parent / f'.mim/configs/_base_/models/{base}.py'
    assert path.is_file()
    file = tmp_path / 'plain.py'
    file.write_text(
        PLAIN.format(
            scope=package.__name__,
            base=str(path),
            name=TINY[family][0],
            arch=TINY[family][1],
            out=tuple(range(first, len(channels))),
        )
    )
    options = small_heads(Config.fromfile(file), channels[first:])
    if package is mmseg:
        options |= {'model.pretrained': None, 'model.data_preprocessor.size': (96, 160)}
    if first:
        options |= {'model.neck.start_level': 0}
    model = revert_sync_batchnorm(build(load_config(file, options), 'cpu'))
    batch = segmentation_batch(19) if package is mmseg else detection_batch()
    if base.startswith('retinanet'):
        for sample in batch['data_samples']:
            del sample.gt_instances.masks
    check_step(model, batch, package.__name__)
