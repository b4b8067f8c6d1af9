"""Merging the views of a detector: made-up predictions whose merger is known, and a small Mask R-CNN."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip('mmdet')
from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

import densevit  # noqa: E402
from tests.scope import scope_restored  # noqa: E402

H, W = 20, 30  # never square


class Detector(nn.Module):
    """Stands in for a detector; its views are given to ``merge_preds`` directly."""

    test_cfg = dict(rcnn=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))

    def test_step(self, data):
        raise NotImplementedError


def rectangle(x1, y1, x2, y2):
    mask = torch.zeros(H, W, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def view(detections, flip=None, masks=True):
    """A data sample with detections (box, score, label[, mask]); a mask fills its box unless given."""
    meta = dict(ori_shape=(H, W), flip=flip is not None, flip_direction=flip)
    sample = DetDataSample(metainfo=meta)
    boxes = torch.tensor([list(each[0]) for each in detections], dtype=torch.float32).reshape(-1, 4)
    sample.pred_instances = InstanceData(
        bboxes=boxes,
        scores=torch.tensor([each[1] for each in detections], dtype=torch.float32),
        labels=torch.tensor([each[2] for each in detections], dtype=torch.long),
    )
    if masks:
        filled = [each[3] if len(each) > 3 else rectangle(*each[0]) for each in detections]
        sample.pred_instances.masks = torch.stack(filled) if filled else torch.zeros(0, H, W, dtype=torch.bool)
    return sample


def merge(*views, **options):
    (merged,) = densevit.DetTTAModel(Detector(), **options).merge_preds([list(views)])
    return merged.pred_instances


BOXES = [((2, 3, 12, 9), 0.9, 0), ((15, 5, 28, 18), 0.8, 1), ((2, 3, 12, 9), 0.7, 1)]


def test_one_view_stays_as_it_is():
    merged, given = merge(view(BOXES)), view(BOXES).pred_instances
    for name in ('bboxes', 'scores', 'labels', 'masks'):
        assert torch.equal(merged.get(name), given.get(name)), name
    assert merged.masks.dtype == torch.bool and merged.masks.shape == (3, H, W)


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_flips_are_undone(direction):
    """The same objects seen in a flipped image: one detection each, where they are in the upright one."""
    horizontal, vertical = direction != 'vertical', direction != 'horizontal'
    flipped = [
        (
            (W - x2 if horizontal else x1, H - y2 if vertical else y1)
            + (W - x1 if horizontal else x2, H - y1 if vertical else y2),
            score - 0.05,
            label,
        )
        for (x1, y1, x2, y2), score, label in BOXES
    ]
    merged, given = merge(view(BOXES), view(flipped, direction)), view(BOXES).pred_instances
    for name in ('bboxes', 'scores', 'labels', 'masks'):
        assert torch.equal(merged.get(name), given.get(name)), name


def test_mask_is_the_weighted_vote_of_its_cluster():
    box = (4, 4, 14, 12)
    left, right, whole = rectangle(4, 4, 9, 12), rectangle(9, 4, 14, 12), rectangle(*box)
    # 0.6 + 0.3 of 1.4 for the right half, 0.6 + 0.5 for the left
    merged = merge(view([(box, 0.6, 0, whole)]), view([(box, 0.5, 0, left)]), view([(box, 0.3, 0, right)]))
    assert merged.scores.tolist() == pytest.approx([0.6])
    assert torch.equal(merged.masks[0], whole)
    # 0.3 of 1.1 for the right half
    merged = merge(view([(box, 0.8, 0, left)]), view([(box, 0.3, 0, right)]))
    assert torch.equal(merged.masks[0], left)
    # another class, or a box elsewhere, has no vote
    merged = merge(view([(box, 0.4, 0, left)]), view([(box, 0.9, 1, right), ((20, 4, 29, 12), 0.9, 0)]))
    assert torch.equal(merged.masks[merged.scores.argmin()], left)
    assert sorted(merged.labels.tolist()) == [0, 0, 1]


def test_best_are_kept():
    many = [((x, 2, x + 3, 8), 0.1 + x / 50, 0) for x in range(0, 24, 4)]
    merged = merge(view(many), max_per_img=2)
    assert merged.scores.tolist() == pytest.approx([0.5, 0.42])
    assert merged.masks.shape == (2, H, W)
    assert torch.equal(merged.masks[0], rectangle(20, 2, 23, 8))


def test_threshold_is_an_option():
    pair = view([((0, 0, 10, 10), 0.9, 0)]), view([((0, 0, 10, 14), 0.8, 0)])  # IoU 0.71
    assert len(merge(*pair)) == 1
    assert len(merge(*pair, nms=dict(type='nms', iou_threshold=0.8))) == 2


def test_nothing_found_and_no_masks():
    merged = merge(view([]), view([], 'horizontal'))
    assert merged.bboxes.shape == (0, 4) and merged.masks.shape == (0, H, W)
    merged = merge(view(BOXES, masks=False), view([], 'horizontal', masks=False))
    assert len(merged) == 3 and 'masks' not in merged


@pytest.fixture(scope='module')
def mask_rcnn():
    """A small Mask R-CNN with random weights that finds something everywhere, and an image for it."""
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    from densevit.config.reading import load_config

    with scope_restored():
        init_default_scope('mmdet')
        cfg = load_config('mask_rcnn_patchconvnet-tiny_scenes')
        cfg.model.backbone.arch.depth = 1
        cfg.model.test_cfg.rcnn.score_thr = 0.01
        torch.manual_seed(3)
        model = MODELS.build(cfg.model).eval()
    nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=0.5)
    return model, torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)


def _sample(flip=False):
    meta = dict(ori_shape=(64, 96), img_shape=(64, 96), scale_factor=(1.0, 1.0), img_id=0)
    return DetDataSample(metainfo={**meta, 'flip': flip, 'flip_direction': 'horizontal' if flip else None})


@torch.no_grad()
def test_of_a_model(mask_rcnn):
    """One upright view is what the model predicts; an image and its mirror image merge to mirrored results."""
    model, image = mask_rcnn
    tta = densevit.DetTTAModel(model)
    assert (tta.nms['iou_threshold'], tta.max_per_img) == (0.5, 100)  # the model's own
    plain = model.test_step(dict(inputs=[image], data_samples=[_sample()]))[0].pred_instances
    assert len(plain) > 5
    merged = tta.test_step(dict(inputs=[[image]], data_samples=[[_sample()]]))[0].pred_instances
    for name in ('bboxes', 'scores', 'labels', 'masks'):
        assert torch.equal(merged.get(name), plain.get(name)), name

    mirrored = image.flip(-1)
    results = [
        tta.test_step(dict(inputs=[[first], [second]], data_samples=[[_sample()], [_sample(flip=True)]]))[0]
        for first, second in ((image, mirrored), (mirrored, image))
    ]
    one, other = (result.pred_instances for result in results)
    torch.testing.assert_close(one.scores, other.scores)
    assert torch.equal(one.masks.sum((1, 2)), other.masks.flip(-1).sum((1, 2)))
    assert torch.equal(one.masks, other.masks.flip(-1))
    assert not torch.equal(one.masks, plain.masks)
