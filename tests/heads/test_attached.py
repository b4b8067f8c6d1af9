"""Segmentors and detectors with a class attention head, and without one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData

from densevit.checkpoints import CheckpointError, load_weights
from densevit.config.reading import load_config
from densevit.engine.loops import _shared_features
from tests.test_configs import CONFIGS

mmseg = pytest.importorskip('mmseg')
mmdet = pytest.importorskip('mmdet')

from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.structures.mask import BitmapMasks  # noqa: E402
from mmseg.models.segmentors.seg_tta import SegTTAModel  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from densevit.evaluation.tta import DetTTAModel  # noqa: E402

HEAD = dict(type='densevit.ClassAttentionHead')
SIZE = (64, 96)
# Backbones with one, four and three maps, of strides 16, 32 and 16.
BACKBONES = {
    'PatchConvNet': dict(arch=dict(embed_dims=16, depth=1, layer_scale_init=0.1)),
    'SwinTransformer': dict(arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)), window_size=4),
    'CvT': dict(arch=dict(embed_dims=(8, 16, 24), depths=(1, 1, 1), num_heads=(1, 1, 1))),
}


def backbone(name: str) -> tuple[dict, list[int]]:
    cfg = dict(type=f'densevit.{name}', **BACKBONES[name])
    return cfg, list(MODELS.build(cfg).out_channels)


def build(cfg: dict, scope: str):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(ConfigDict(copy.deepcopy(cfg)))
    model.init_weights()
    return model


def segmentor(
    name: str = 'PatchConvNet', class_attention: dict | None = HEAD, kind='densevit.EncoderDecoder', **options
):
    part, channels = backbone(name)
    cfg = dict(
        type=kind,
        backbone=part,
        decode_head=dict(
            type='FCNHead', in_channels=channels[-1], in_index=-1, channels=8, num_classes=5, num_convs=1,
            norm_cfg=dict(type='BN'),
        ),
        data_preprocessor=dict(type='SegDataPreProcessor', size_divisor=32),
        **{'test_cfg': dict(mode='whole'), **options},
    )  # fmt: skip
    return build({**cfg, 'class_attention': class_attention} if class_attention else cfg, 'mmseg')


def detector(name: str = 'SwinTransformer', class_attention: dict | None = HEAD, kind: str = 'densevit.MaskRCNN'):
    """Mask R-CNN, Cascade R-CNN or RetinaNet, small."""
    if kind.endswith('RetinaNet'):
        cfg = retinanet()
    else:
        stem = 'cascade_mask_rcnn' if kind.endswith('CascadeRCNN') else 'mask_rcnn'
        cfg = load_config(CONFIGS / f'{stem}_swin_coco.py').model
        cfg.rpn_head.update(in_channels=16, feat_channels=16)
        head = cfg.roi_head
        head.bbox_roi_extractor.out_channels = head.mask_roi_extractor.out_channels = 16
        for each in head.bbox_head if isinstance(head.bbox_head, list) else [head.bbox_head]:
            each.update(in_channels=16, fc_out_channels=32, num_classes=5)
            if 'conv_out_channels' in each:
                each.update(conv_out_channels=16, num_shared_convs=1)
                each.norm_cfg = dict(type='BN')
        head.mask_head.update(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=5)
    cfg.backbone, channels = backbone(name)
    cfg.neck = dict(type='FPN', in_channels=channels, out_channels=16, num_outs=5)
    cfg.type = kind
    if class_attention:
        cfg.class_attention = class_attention
    return build(cfg, 'mmdet')


def retinanet() -> Config:
    return ConfigDict(
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
        bbox_head=dict(
            type='RetinaHead', num_classes=5, in_channels=16, stacked_convs=1, feat_channels=16,
            anchor_generator=dict(
                type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0],
                strides=[4, 8, 16, 32, 64],
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True),
            loss_bbox=dict(type='L1Loss'),
        ),
        train_cfg=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1, pos_weight=-1, debug=False,
        ),
        test_cfg=dict(
            nms_pre=100, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10
        ),
    )  # fmt: skip


def seg_samples(count: int = 2, size=SIZE) -> list[SegDataSample]:
    labels = torch.zeros(1, *size, dtype=torch.long)
    labels[:, 10:40, 20:60], labels[:, 50:] = 3, 255
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size)
    return [SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels.clone())) for _ in range(count)]


def det_samples(count: int = 2) -> list[DetDataSample]:
    boxes = torch.tensor([[20.0, 10, 60, 40], [5, 30, 30, 60]])
    masks = np.zeros((2, *SIZE), np.uint8)
    masks[0, 10:40, 20:60] = masks[1, 30:60, 5:30] = 1
    meta = dict(
        img_shape=(60, 90), ori_shape=(120, 180), scale_factor=(0.5, 0.5), batch_input_shape=SIZE, pad_shape=SIZE
    )
    listed = []
    for _ in range(count):
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1, 4]), masks=BitmapMasks(masks, *SIZE))
        sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.zeros(0, dtype=torch.long))
        listed.append(sample)
    return listed


def images(count: int = 2, size=SIZE) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


KINDS = ['densevit.MaskRCNN', 'densevit.CascadeRCNN', 'densevit.RetinaNet']


def check(model, samples, original: tuple[int, int], stride: int) -> None:
    """One step and one prediction: losses, gradients of everything, attention."""
    model.train()
    losses = model.loss(images(), samples)
    total, logged = model.parse_losses(losses)
    assert 0 < logged['class_attention.loss_presence'] < total
    total.backward()
    assert [name for name, each in model.named_parameters() if each.grad is None and 'class_attention' in name] == []
    assert model.backbone.get_parameter(next(name for name, _ in model.backbone.named_parameters())).grad is not None
    model.eval()
    with torch.no_grad():
        predicted = model.predict(images(), samples)
    for sample in predicted:
        found = sample.class_attention
        assert found.maps.shape == (5, round(original[0] / stride), round(original[1] / stride)), found.maps.shape
        torch.testing.assert_close(found.maps.sum((1, 2)), torch.ones(5))
        assert found.presence.shape == (5,) and ((found.presence > 0) & (found.presence < 1)).all()
        assert found.upsampled().shape == (5, *sample.ori_shape)


@pytest.mark.parametrize('name', BACKBONES)
def test_segmentors(name):
    model = segmentor(name)
    check(model, seg_samples(), SIZE, model.backbone.out_strides[-1])


@pytest.mark.parametrize('kind', KINDS)
def test_detectors(kind):
    check(detector(kind=kind), det_samples(), SIZE, 32)


def test_a_detector_on_three_maps():
    check(detector('CvT'), det_samples(), SIZE, 16)


@pytest.mark.parametrize('make', [segmentor, *(lambda *a, k=k, **o: detector(*a, kind=k, **o) for k in KINDS)])
def test_the_rest_is_what_it_was(make):
    """Names and predictions of everything else."""
    plain, model = make(class_attention=None), make()
    state = {name: value for name, value in model.state_dict().items() if not name.startswith('class_attention.')}
    assert list(state) == list(plain.state_dict()) and len(state) < len(model.state_dict())
    plain.load_state_dict(state)
    is_segmentor = hasattr(model, 'decode_head')
    results = []
    for each in (plain, model):
        with torch.no_grad():
            (sample,) = each.eval().predict(images(1), (seg_samples if is_segmentor else det_samples)(1))
        results.append(sample.pred_sem_seg.data if is_segmentor else sample.pred_instances.bboxes)
        assert ('class_attention' in sample) is (each is model)
    assert torch.equal(*results)


def test_retinanet_is_mmdetections():
    """The same parameters and results as theirs, but with our neck."""
    ours, theirs = (
        detector(class_attention=None, kind='densevit.RetinaNet'),
        detector(class_attention=None, kind='mmdet.RetinaNet'),
    )
    assert type(ours.neck).__module__.startswith('densevit') and not type(theirs.neck).__module__.startswith('densevit')
    theirs.load_state_dict(ours.state_dict())
    losses, expected = (each.train().loss(images(), det_samples()) for each in (ours, theirs))
    assert losses.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(sum(losses[name]), sum(values), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        found, wanted = (each.eval().predict(images(1), det_samples(1))[0].pred_instances for each in (ours, theirs))
    torch.testing.assert_close(found.bboxes, wanted.bboxes, rtol=1e-4, atol=1e-3)


def test_boxes_are_enough_for_detectors():
    samples = det_samples()
    for sample in samples:
        del sample.gt_instances.masks
    losses = detector(kind='densevit.RetinaNet').train().loss(images(), samples)
    assert losses['class_attention.loss_presence'] > 0


def test_sliding_windows_see_the_whole_image():
    model = segmentor(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(32, 48)))
    size = (80, 112)
    with torch.no_grad():
        (sample,) = model.eval().predict(images(1, size), seg_samples(1, size))
    assert sample.class_attention.maps.shape == (5, 5, 7)
    whole = segmentor()  # the same weights; one window as large as the image is the image
    whole.test_cfg = ConfigDict(mode='slide', crop_size=(999, 999), stride=(9, 9))
    other = segmentor()
    with torch.no_grad():
        (found,), (expected,) = (each.eval().predict(images(1), seg_samples(1)) for each in (whole, other))
    assert torch.equal(found.class_attention.maps, expected.class_attention.maps)


def test_without_samples():
    with torch.no_grad():
        (sample,) = segmentor().eval().predict(images(1))
    assert sample.class_attention.ori_shape == SIZE


def test_validation_loss_shares_the_features():
    """ValLoop answers a second call of extract_feat from memory, and the last map has to come with it."""
    model = segmentor().eval()
    with torch.no_grad(), _shared_features(model):
        model.predict(images(), seg_samples())
        assert 'class_attention.loss_presence' in model.loss(images(), seg_samples())


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r'class_attention.in_channels=7, but the model has 16'):
        segmentor(class_attention=dict(HEAD, in_channels=7))
    with pytest.raises(ValueError, match=r'class_attention.num_classes=6, but the model has 5'):
        segmentor(class_attention=dict(HEAD, num_classes=6))


def test_views_are_merged_as_before():
    """With test-time augmentation the attention is that of one view, in the original image."""
    model = segmentor().eval()
    flipped = seg_samples(1)
    flipped[0].set_metainfo(dict(flip=True, flip_direction='horizontal', img_path='a.png'))
    plain = seg_samples(1)
    plain[0].set_metainfo(dict(img_path='a.png'))
    with torch.no_grad():
        views = [*model.predict(images(1), plain), *model.predict(images(1).flip(3), flipped)]
    (merged,) = SegTTAModel(module=model).merge_preds([views])
    assert merged.pred_sem_seg.data.shape[-2:] == SIZE
    assert merged.class_attention.upsampled([0]).shape == (1, *SIZE)

    model = detector().eval()
    with torch.no_grad():
        views = model.predict(images(2), det_samples(2))
    (merged,) = DetTTAModel(module=model).merge_preds([views])
    assert merged.class_attention.ori_shape == (120, 180) and 'bboxes' in merged.pred_instances


def test_checkpoints_with_and_without():
    """A trained model can be given the head later, and one that was trained with it can be used without."""
    plain, model = segmentor(class_attention=None), segmentor()
    report = load_weights(model, plain.state_dict())
    assert len(report.loaded) == len(plain.state_dict())
    assert report.kept and all(name.startswith('class_attention.') for name in report.kept)
    report = load_weights(plain, model.state_dict())
    assert len(report.loaded) == len(plain.state_dict()) and not report.kept
    with pytest.raises(CheckpointError, match='classify.bias'):
        load_weights(model, {name: value for name, value in model.state_dict().items() if 'classify.bias' not in name})
