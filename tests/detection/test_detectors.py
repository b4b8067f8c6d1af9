"""Detectors and their parts beside mmdetection's with the same weights, in float64 up to the masks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip('mmdet')

from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmdet.structures.mask import BitmapMasks, encode_mask_results
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from densevit.config.reading import load_config
from densevit.detection.mask_head import FCNMaskHead
from densevit.detection.masks import PastedMasks
from densevit.detection.nms import batched_nms
from densevit.detection.rpn_head import best_first
from tests.checkpoints.whole import CONFIGS

CHANNELS, SIZE, CLASSES = (6, 8, 10, 12), (96, 160), 5


@MMDET_MODELS.register_module(force=True)
class PoolingBackbone(nn.Module):
    """Maps of four strides from the image's mean colours."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3, channels, 1) for channels in CHANNELS)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(stage(nn.functional.avg_pool2d(images, 4 << index)) for index, stage in enumerate(self.stages))


def small_config(name: str) -> Config:
    cfg = load_config(CONFIGS / f'{name}.py').model
    cfg.backbone = dict(type='mmdet.PoolingBackbone')
    cfg.neck.update(in_channels=list(CHANNELS), out_channels=16)
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    head = cfg.roi_head
    head.bbox_roi_extractor.out_channels = head.mask_roi_extractor.out_channels = 16
    for each in head.bbox_head if isinstance(head.bbox_head, list) else [head.bbox_head]:
        each.update(in_channels=16, fc_out_channels=32, num_classes=CLASSES)
        if 'conv_out_channels' in each:
            each.update(conv_out_channels=16, num_shared_convs=1)
    head.mask_head.update(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=CLASSES)
    cfg.train_cfg.rpn_proposal.update(nms_pre=200, max_per_img=60)
    cfg.test_cfg.rpn.update(nms_pre=200, max_per_img=60)
    return cfg


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """mmdetection's detector and ours: the same config but for the detector's type."""
    cfg = small_config(name)
    built = []
    with DefaultScope.overwrite_default_scope('mmdet'):
        for scope in ('mmdet', 'densevit'):
            config = copy.deepcopy(cfg)
            config.type = f'{scope}.{config.type.split(".")[-1]}'
            built.append(MMDET_MODELS.build(config))
    theirs, ours = built
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter_name, parameter in theirs.named_parameters():
            if 'bn' in parameter_name:
                continue
            inputs = parameter[0].numel() if 'upsample' not in parameter_name else parameter.shape[0]
            gain = 0.3 if '_reg' in parameter_name else 1.0
            scale = gain * (2 / inputs) ** 0.5 if parameter.ndim > 1 else 0.02
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


@pytest.fixture(scope='module', params=['mask_rcnn_swin_coco', 'cascade_mask_rcnn_swin_coco'])
def detectors(request) -> tuple[nn.Module, nn.Module]:
    return pair(request.param)


def images(count: int = 2) -> Tensor:
    low = torch.randn(count, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(low, SIZE, mode='bilinear')


def samples(count: int = 2, dtype: torch.dtype = torch.float32) -> list[DetDataSample]:
    rng, listed = np.random.default_rng(1), []
    for index in range(count):
        corner = rng.uniform(0, (100, 50), (4, 2))
        boxes = np.concatenate((corner, corner + rng.uniform(12, 46, (4, 2))), axis=1)
        ys, xs = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
        masks = np.stack([(xs > x1) & (ys > y1) & (xs + ys < (x1 + x2 + y1 + y2) / 2) for x1, y1, x2, y2 in boxes])
        meta = dict(img_shape=SIZE, pad_shape=SIZE, ori_shape=(80, 150), scale_factor=(SIZE[1] / 150, SIZE[0] / 80))
        sample = DetDataSample(metainfo=dict(img_id=index, batch_input_shape=SIZE, **meta))
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(boxes).to(dtype),
            labels=torch.from_numpy(rng.integers(0, CLASSES, 4)),
            masks=BitmapMasks(masks.astype(np.uint8), *SIZE),
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4, dtype=dtype), labels=torch.zeros(0, dtype=torch.long)
        )
        listed.append(sample)
    return listed


def test_every_part_is_exchanged(detectors):
    _, ours = detectors
    names = {type(each).__name__: type(each).__module__ for each in ours.modules()}
    for name in ('FPN', 'RPNHead', 'SingleRoIExtractor', 'FCNMaskHead'):
        assert names[name].startswith('densevit.detection'), name
    assert type(ours.roi_head).__module__ == 'densevit.detection.roi_heads'


def test_detections_in_float64(detectors):
    """mmdetection cannot paste float64 masks, so both stop at the boxes."""
    theirs, ours = (copy.deepcopy(each).double() for each in detectors)
    with torch.no_grad():
        results = []
        for model in (theirs, ours):
            maps = model.extract_feat(images().double())
            proposals = model.rpn_head.predict(maps, samples())
            metas = [each.metainfo for each in samples()]
            found = model.roi_head.predict_bbox(maps, metas, proposals, model.test_cfg.rcnn)
            results.append((maps, proposals, found))
    expected, found = results
    for one, other in zip(expected[0], found[0]):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-9)
    for kind in (1, 2):
        for one, other in zip(expected[kind], found[kind]):
            assert len(one) >= 20
            assert sorted(one.keys()) == sorted(other.keys())
            torch.testing.assert_close(other.bboxes, one.bboxes, rtol=0, atol=1e-9)
            torch.testing.assert_close(other.scores, one.scores, rtol=0, atol=1e-9)
            assert torch.equal(other.labels, one.labels)


@pytest.mark.parametrize('rescale', [True, False])
def test_masks(detectors, rescale):
    """The same pixels, given the same detections; a probability of one half may fall to either side."""
    theirs, ours = detectors
    with torch.no_grad():
        maps = theirs.extract_feat(images())
        metas = [each.metainfo for each in samples()]
        proposals = theirs.rpn_head.predict(maps, samples())
        boxes = theirs.roi_head.predict_bbox(maps, metas, proposals, theirs.test_cfg.rcnn)
        expected, found = (
            model.roi_head.predict_mask(maps, metas, copy.deepcopy(boxes), rescale) for model in (theirs, ours)
        )
    for one, other in zip(expected, found):
        assert isinstance(other.masks, PastedMasks)
        assert other.masks.shape == one.masks.shape
        torch.testing.assert_close(other.bboxes, one.bboxes, rtol=0, atol=0)
        codes = other.masks.encode()
        assert (other.masks != one.masks).float().mean() < 1e-5
        assert 0.001 < one.masks.float().mean() < 0.9
        assert [each['counts'] for each in codes] == [
            each['counts'] for each in encode_mask_results(other.masks.numpy())
        ]


def test_losses_and_gradients(detectors):
    gradients, losses = [], []
    for model in (copy.deepcopy(each).double().train() for each in detectors):
        torch.manual_seed(0)  # of the samplers
        maps = [each.detach().requires_grad_() for each in model.backbone(images().double())]
        model.backbone.forward = lambda _, maps=maps: tuple(maps)
        loss = model.loss(images().double(), samples(dtype=torch.float64))
        total = sum(sum(each) if isinstance(each, list) else each for key, each in loss.items() if 'loss' in key)
        total.backward()
        losses.append(loss)
        gradients.append(
            [each.grad for each in maps] + [p.grad for n, p in model.named_parameters() if 'backbone' not in n]
        )
    expected, found = losses
    assert list(found) == list(expected)
    for name, one in expected.items():
        for value, other in zip(*((each if isinstance(each, list) else [each]) for each in (one, found[name]))):
            torch.testing.assert_close(
                other, value, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f'{name}: {text}'
            )
    for one, other in zip(*gradients):
        if one is None or other is None:
            assert one is None and other is None
            continue
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_folded(detectors):
    _, ours = detectors
    head = copy.deepcopy(ours.roi_head.bbox_head)
    head = head[0] if isinstance(head, nn.ModuleList) else head
    features = torch.randn(3, 16, 7, 7).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = head(features)
        head.fold()
        for one, other in zip(expected, head(features)):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-4)


def test_all_classes_without_labels(detectors):
    theirs, ours = (each.roi_head.mask_head for each in detectors)
    theirs, ours = (each[0] if isinstance(each, nn.ModuleList) else each for each in (theirs, ours))
    features = torch.randn(19, 16, 14, 14)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(ours(features), theirs(features), rtol=1e-5, atol=1e-4)


def test_nothing_found(detectors):
    _, ours = detectors
    ours = copy.deepcopy(ours)
    ours.roi_head.test_cfg.score_thr = 1.0
    with torch.no_grad():
        results = ours.predict(images(), samples())
    assert all(len(each.pred_instances) == 0 for each in results)
    assert results[0].pred_instances.masks.shape == (0, 80, 150)


@pytest.mark.parametrize('height', [1, 7, 200])
def test_proposals_by_strips(detectors, height, monkeypatch):
    theirs, ours = detectors
    monkeypatch.setattr('densevit.detection.rpn_head._STRIP', 16 * 9 * 3)
    maps = torch.randn(2, 16, height, 9)
    with torch.no_grad():
        for one, other in zip(theirs.rpn_head.forward_single(maps), ours.rpn_head.forward_single(maps)):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-4)


def test_suppression_is_mmcvs():
    from mmcv.ops import batched_nms as mmcv_batched_nms

    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(400, 2, generator=generator) * 60
    boxes = torch.cat((corner, corner + torch.rand(400, 2, generator=generator) * 40), dim=1)
    scores = (torch.rand(400, generator=generator) * 50).round() / 50  # many are equal
    groups = torch.randint(6, (400,), generator=generator)
    for cfg in (dict(type='nms', iou_threshold=0.4), dict(type='nms', iou_threshold=0.4, split_thr=100)):
        expected = mmcv_batched_nms(boxes, scores, groups, cfg)
        found = batched_nms(boxes, scores, groups, cfg)
        assert 20 < len(found[1]) < 380
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_best_first():
    scores = (torch.rand(1000) * 30).round()
    assert torch.equal(best_first(scores, 77), scores.sort(descending=True, stable=True).indices[:77])


def test_one_part_alone():
    """Each part works in mmdetection's own detector."""
    cfg = small_config('mask_rcnn_swin_coco')
    cfg.type = 'mmdet.MaskRCNN'
    cfg.roi_head.mask_head.type = 'densevit.FCNMaskHead'
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MMDET_MODELS.build(cfg).eval()
    assert type(model.neck).__module__.startswith('mmdet')
    rois = bbox2roi([torch.tensor([[4.0, 4, 90, 60]])])
    with torch.no_grad():
        maps = model.extract_feat(images())
        assert model.roi_head._mask_forward(maps, rois)['mask_preds'].shape == (1, CLASSES, 28, 28)


def test_the_mask_of_the_predicted_class_alone_is_computed():
    """mmcv builds convolutions of classes of its own, which are torch's but for empty inputs."""
    head = FCNMaskHead(num_convs=1, in_channels=8, conv_out_channels=8, num_classes=3).eval()
    assert head._is_usual
    plain = MMDET_MODELS.build(dict(type='FCNMaskHead', num_convs=1, in_channels=8, conv_out_channels=8, num_classes=3))
    plain.load_state_dict(head.state_dict())
    x, labels = torch.randn(5, 8, 7, 9), torch.tensor([2, 0, 1, 1, 2])
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            expected = plain.eval()(x)
            torch.testing.assert_close(head(x), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(head(x, labels)[:, 0], expected[torch.arange(5), labels], rtol=0, atol=1e-5)
    head.upsample.register_forward_hook(lambda *args: None)
    assert not head._is_usual
