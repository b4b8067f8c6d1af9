from __future__ import annotations

import copy
import json
import random

import cv2
import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from mmengine.visualization import Visualizer
from torch.utils.data import Dataset

import densevit  # noqa: F401  (before mmdet)
from densevit.engine.loops import fixed_randomness, truth_on_input
from densevit.registry import METRICS

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.utils import register_all_modules as register_mmdet
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules as register_mmseg

from tests.engine.toy_run import CONTEXT

ORIGINAL, RESIZED = (60, 88), (41, 60)  # height, width
SCALE = (RESIZED[1] / ORIGINAL[1], RESIZED[0] / ORIGINAL[0])  # width, height, as mm writes it
META = {'ori_shape': ORIGINAL, 'img_shape': RESIZED, 'scale_factor': SCALE}
CLASSES = ('a', 'b', 'c')


@pytest.fixture(autouse=True)
def _no_trace():
    """A Runner leaves its scope, logger, message hub and visualizer behind as the current ones; take them
    back."""
    kept = {kind: dict(kind._instance_dict) for kind in (DefaultScope, MMLogger, MessageHub, Visualizer)}
    yield
    for kind, instances in kept.items():
        kind._instance_dict.clear()
        kind._instance_dict.update(instances)


class Samples(Dataset):
    """A list of samples that knows its classes."""

    metainfo = {'classes': CLASSES}

    def __init__(self, items: list[dict]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return copy.deepcopy(self.items[index])


@METRICS.register_module(name='CountImages', force=True)
class CountImages(BaseMetric):
    """The number of images that have a prediction."""

    def process(self, data_batch, data_samples) -> None:
        self.results += ['pred_sem_seg' in sample or 'pred_instances' in sample for sample in data_samples]

    def compute_metrics(self, results) -> dict:
        return {'images': float(sum(results))}


def seg_items(number: int, *, label: bool = True) -> list[dict]:
    items = []
    for index in range(number):
        sample = SegDataSample(metainfo={**META, 'img_path': f'{index}.jpg'})
        if label:
            truth = torch.randint(0, 3, (1, *ORIGINAL))
            truth[:, :9] = 255
            sample.gt_sem_seg = PixelData(data=truth)
        items.append({'inputs': torch.randint(0, 256, (3, *RESIZED), dtype=torch.uint8), 'data_samples': sample})
    return items


def seg_model(**test_cfg):
    head = {
        'type': 'FCNHead',
        'num_convs': 1,
        'channels': 8,
        'num_classes': 3,
        'norm_cfg': {'type': 'BN'},
        'dropout_ratio': 0.5,
        'align_corners': False,
    }
    model = {
        'type': 'EncoderDecoder',
        'data_preprocessor': {
            'type': 'SegDataPreProcessor',
            'mean': [120.0] * 3,
            'std': [60.0] * 3,
            'size_divisor': 32,
            'test_cfg': {'size_divisor': 32},
        },
        'backbone': {'type': 'ResNet', 'depth': 18, 'base_channels': 8, 'norm_cfg': {'type': 'BN'}},
        'decode_head': {
            **head,
            'in_channels': 64,
            'in_index': 3,
            'loss_decode': {'type': 'CrossEntropyLoss'},
        },
        'auxiliary_head': {
            **head,
            'in_channels': 32,
            'in_index': 2,
            'loss_decode': {'type': 'CrossEntropyLoss', 'loss_weight': 0.4},
        },
        'test_cfg': {'mode': 'whole', **test_cfg},
    }
    register_mmseg(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MMSEG_MODELS.build(Config(model)._cfg_dict)


def det_items(number: int, *, masks: bool = True, truth: bool = True, boxes: int = 3) -> list[dict]:
    items = []
    for index in range(number):
        sample = DetDataSample(metainfo={**META, 'img_id': index, 'img_path': f'{index}.jpg'})
        corner = torch.rand(boxes, 2) * torch.tensor([50.0, 30.0])
        corners = torch.cat([corner, corner + 8 + torch.rand(boxes, 2) * 20], dim=1)
        if truth:
            sample.gt_instances = InstanceData(bboxes=corners, labels=torch.randint(0, 3, (boxes,)))
            if masks:
                drawn = np.zeros((boxes, *ORIGINAL), dtype=np.uint8)
                for mask, (x1, y1, x2, y2) in zip(drawn, corners.long().tolist()):
                    mask[y1 : y2 + 1, x1 : x2 + 1] = 1
                sample.gt_instances.masks = BitmapMasks(drawn, *ORIGINAL)
            sample.ignored_instances = sample.gt_instances[:0]
        items.append({'inputs': torch.randint(0, 256, (3, *RESIZED), dtype=torch.uint8), 'data_samples': sample})
    return items


def det_model(*, masks: bool = True):
    assigner = {'type': 'MaxIoUAssigner', 'pos_iou_thr': 0.5, 'neg_iou_thr': 0.5, 'min_pos_iou': 0.3}
    proposals = {
        'nms_pre': 60,
        'max_per_img': 40,
        'nms': {'type': 'nms', 'iou_threshold': 0.7},
        'min_bbox_size': 0,
    }
    coder = {'type': 'DeltaXYWHBBoxCoder', 'target_means': [0.0] * 4, 'target_stds': [0.1, 0.1, 0.2, 0.2]}
    smooth, sigmoid = {'type': 'L1Loss'}, {'type': 'CrossEntropyLoss', 'use_sigmoid': True}

    def sampler(num: int) -> dict:
        return {'type': 'RandomSampler', 'num': num, 'pos_fraction': 0.5, 'neg_pos_ub': -1}

    def extractor(size: int) -> dict:
        return {
            'type': 'SingleRoIExtractor',
            'roi_layer': {'type': 'RoIAlign', 'output_size': size, 'sampling_ratio': 0},
            'out_channels': 8,
            'featmap_strides': [4, 8, 16, 32],
        }

    roi_head = {
        'type': 'StandardRoIHead',
        'bbox_roi_extractor': extractor(7),
        'bbox_head': {
            'type': 'Shared2FCBBoxHead',
            'in_channels': 8,
            'fc_out_channels': 16,
            'roi_feat_size': 7,
            'num_classes': 3,
            'bbox_coder': coder,
            'loss_bbox': smooth,
            'loss_cls': {'type': 'CrossEntropyLoss'},
        },
    }
    if masks:
        roi_head['mask_roi_extractor'] = extractor(14)
        roi_head['mask_head'] = {
            'type': 'FCNMaskHead',
            'num_convs': 1,
            'in_channels': 8,
            'conv_out_channels': 8,
            'num_classes': 3,
            'loss_mask': {'type': 'CrossEntropyLoss', 'use_mask': True},
        }
    model = {
        'type': 'MaskRCNN' if masks else 'FasterRCNN',
        'data_preprocessor': {
            'type': 'DetDataPreprocessor',
            'mean': [120.0] * 3,
            'std': [60.0] * 3,
            'pad_mask': masks,
            'pad_size_divisor': 32,
        },
        'backbone': {'type': 'ResNet', 'depth': 18, 'base_channels': 8},
        'neck': {'type': 'FPN', 'in_channels': [8, 16, 32, 64], 'out_channels': 8, 'num_outs': 5},
        'rpn_head': {
            'type': 'RPNHead',
            'in_channels': 8,
            'feat_channels': 8,
            'bbox_coder': coder,
            'anchor_generator': {
                'type': 'AnchorGenerator',
                'scales': [4],
                'ratios': [0.5, 1.0, 2.0],
                'strides': [4, 8, 16, 32, 64],
            },
            'loss_cls': sigmoid,
            'loss_bbox': smooth,
        },
        'roi_head': roi_head,
        'train_cfg': {
            # Fewer samples than candidates, so that the loss depends on random numbers.
            'rpn': {
                'assigner': assigner,
                'sampler': sampler(16),
                'allowed_border': -1,
                'pos_weight': -1,
                'debug': False,
            },
            'rpn_proposal': proposals,
            'rcnn': {
                'assigner': assigner,
                'sampler': sampler(8),
                'mask_size': 28,
                'pos_weight': -1,
                'debug': False,
            },
        },
        'test_cfg': {
            'rpn': proposals,
            'rcnn': {
                'score_thr': 0.05,
                'nms': {'type': 'nms', 'iou_threshold': 0.5},
                'max_per_img': 20,
                'mask_thr_binary': 0.5,
            },
        },
    }
    register_mmdet(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MMDET_MODELS.build(Config(model)._cfg_dict)


def runner_for(model, items: list[dict], work_dir, *, batch_size: int = 1, val_cfg: dict | None = None, **options):
    loader = {
        'batch_size': batch_size,
        'num_workers': 0,
        'dataset': Samples(items),
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        'collate_fn': {'type': 'pseudo_collate'},
    }
    return Runner(
        model=model,
        work_dir=str(work_dir),
        val_dataloader=loader,
        val_cfg=val_cfg or {'type': 'densevit.ValLoop'},
        val_evaluator={'type': 'densevit.CountImages'},
        experiment_name=str(work_dir),
        default_scope='mmengine',
        log_level='INFO',
        **options,
    )


def normalized(item: dict, size: tuple[int, int]) -> torch.Tensor:
    image = (item['inputs'].float() - 120) / 60
    return F.pad(image, (0, size[1] - image.shape[2], 0, size[0] - image.shape[1]))[None]


def nearest(array: np.ndarray) -> np.ndarray:
    return cv2.resize(array, RESIZED[::-1], interpolation=cv2.INTER_NEAREST)


@torch.no_grad()
def seg_losses_by_hand(model, items: list[dict]) -> dict[str, float]:
    """Cross entropy of the logits at the size of the padded image, the mean over all pixels."""
    sums = {'decode.loss_ce': 0.0, 'aux.loss_ce': 0.0}
    for item in items:
        image = normalized(item, (64, 64))
        label = nearest(item['data_samples'].gt_sem_seg.data[0].numpy().astype(np.uint8))
        label = F.pad(torch.from_numpy(label).long(), (0, 4, 0, 23), value=255)[None]
        features = model.backbone(image)
        for name, head, weight in (('decode', model.decode_head, 1.0), ('aux', model.auxiliary_head, 0.4)):
            logits = F.interpolate(head(features), size=(64, 64), mode='bilinear', align_corners=False)
            loss = F.cross_entropy(logits, label, ignore_index=255, reduction='sum') / label.numel()
            sums[f'{name}.loss_ce'] += weight * float(loss) / len(items)
    return sums


def test_segmentation_loss_equals_one_by_hand(tmp_path):
    model, items = seg_model(), seg_items(3)
    runner = runner_for(model, items, tmp_path)
    metrics = runner.val()
    parts = seg_losses_by_hand(model.eval(), items)
    assert metrics['images'] == 3
    for name, value in parts.items():
        assert metrics[f'val/{name}'] == pytest.approx(value, rel=1e-5)
    assert metrics['val/loss'] == pytest.approx(sum(parts.values()), rel=1e-5)
    assert 0 <= metrics['val/decode.acc_seg'] <= 100
    # Two images at once: the mean over a batch of 2 and a batch of 1, weighted, is the same mean.
    again = runner_for(model, items, tmp_path / 'batched', batch_size=2).val()
    assert again['val/loss'] == pytest.approx(metrics['val/loss'], rel=1e-5)


@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_features_are_computed_once(tmp_path, mode):
    window = {} if mode == 'whole' else {'crop_size': (64, 40), 'stride': (64, 24)}
    model, items = seg_model(mode=mode, **window), seg_items(2)
    shapes = []
    model.backbone.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape[2:])))
    metrics = runner_for(model, items, tmp_path).val()
    crops = [] if mode == 'whole' else [(64, 40)] * 2
    assert shapes == [*crops, (64, 64)] * 2
    assert metrics['val/loss'] == pytest.approx(sum(seg_losses_by_hand(model.eval(), items).values()), rel=1e-5)
    assert 'extract_feat' not in vars(model)
    assert not model.data_preprocessor._forward_hooks


@pytest.mark.parametrize('masks', [True, False])
@torch.no_grad()
def test_detection_loss_equals_training_path_on_resized_truth(tmp_path, masks):
    model, items = det_model(masks=masks), det_items(2, masks=masks)
    metrics = runner_for(model, items, tmp_path).val()
    assert metrics['images'] == 2

    expected = {}
    for index, item in enumerate(copy.deepcopy(items)):
        truth = item['data_samples'].gt_instances
        truth.bboxes = truth.bboxes * torch.tensor([*SCALE, *SCALE])
        if masks:
            truth.masks = BitmapMasks(np.stack([nearest(mask) for mask in truth.masks.masks]), *RESIZED)
        item['data_samples'].ignored_instances = truth[:0]
        model.eval()
        batch = model.data_preprocessor({'inputs': [item['inputs']], 'data_samples': [item['data_samples']]}, True)
        assert batch['inputs'].shape == (1, 3, 64, 64)
        with fixed_randomness(index, torch.device('cpu')):
            losses = model.loss(batch['inputs'], batch['data_samples'])
        for name, value in model.parse_losses(losses)[1].items():
            expected[f'val/{name}'] = expected.get(f'val/{name}', 0) + float(value) / 2
    assert ('val/loss_mask' in expected) == masks
    assert expected['val/loss_bbox'] > 0
    assert {name: value for name, value in metrics.items() if name != 'images'} == pytest.approx(expected, rel=1e-6)


def test_loss_is_repeatable_and_leaves_randomness_alone(tmp_path):
    runner = runner_for(det_model(), det_items(2), tmp_path)
    results, states = [], []
    for seed, loss in ((3, True), (4, True), (4, False)):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        runner.val_loop.loss = loss
        results.append(runner.val())
        states.append((torch.get_rng_state().tolist(), np.random.get_state()[1:3], random.getstate()))
    assert results[0] == results[1] and 'val/loss_mask' in results[0]
    np.testing.assert_equal(states[1], states[2])
    with fixed_randomness(0, torch.device('cpu')):
        first = torch.rand(1)
    with fixed_randomness(1, torch.device('cpu')):
        assert torch.rand(1) != first


@pytest.mark.parametrize('training', [True, False])
def test_mode_is_restored(tmp_path, training):
    model = seg_model()
    runner = runner_for(model, seg_items(1), tmp_path)
    model.train(training)
    runner.val()
    assert model.training is training
    assert model.decode_head.dropout.training is training


def test_without_truth_there_is_no_loss_but_a_line(tmp_path):
    cases = (
        (seg_model(), seg_items(1, label=False)),
        (det_model(), det_items(1, truth=False)),
        (det_model(), det_items(1, masks=False)),  # a mask head whose pipeline loads boxes only
    )
    for index, (model, items) in enumerate(cases):
        folder = tmp_path / str(index)
        assert runner_for(model, items, folder).val() == {'images': 1}
        (log,) = folder.rglob('*.log')
        assert log.read_text().count('no validation loss') == 1


def test_batches_without_truth_are_left_out(tmp_path):
    model, items = seg_model(), seg_items(2)
    expected = runner_for(model, items, tmp_path / 'all').val()
    metrics = runner_for(model, [*items, *seg_items(1, label=False)], tmp_path / 'some').val()
    assert metrics['images'] == 3
    assert metrics['val/loss'] == pytest.approx(expected['val/loss'])


def test_image_without_objects(tmp_path):
    metrics = runner_for(det_model(), det_items(1, boxes=0), tmp_path).val()
    assert metrics['val/loss'] > 0
    assert metrics['val/loss_bbox'] == 0
    assert all(np.isfinite(value) for value in metrics.values())


def test_loss_can_be_switched_off(tmp_path):
    runner = runner_for(seg_model(), seg_items(1), tmp_path, val_cfg={'type': 'densevit.ValLoop', 'loss': False})
    assert runner.val() == {'images': 1}


def test_truth_that_was_resized_already_is_kept():
    sample = SegDataSample(metainfo=META)
    sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, *RESIZED)))
    label = truth_on_input(sample, (64, 64), 254).gt_sem_seg.data
    assert torch.equal(label[:, : RESIZED[0], : RESIZED[1]], sample.gt_sem_seg.data)
    assert (label[:, RESIZED[0] :] == 254).all() and (label[:, :, RESIZED[1] :] == 254).all()

    sample = DetDataSample(metainfo=META)
    boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0]])
    sample.gt_instances = InstanceData(bboxes=boxes, masks=BitmapMasks(np.ones((1, *RESIZED), np.uint8), *RESIZED))
    assert torch.equal(truth_on_input(sample, (64, 64)).gt_instances.bboxes, boxes)


def test_polygons_are_scaled_and_the_original_sample_is_kept():
    sample = DetDataSample(metainfo=META)
    polygon = np.array([0.0, 0.0, 88.0, 0.0, 88.0, 60.0])
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[0.0, 0.0, 88.0, 60.0]]), masks=PolygonMasks([[polygon]], *ORIGINAL)
    )
    truth = truth_on_input(sample, (64, 64)).gt_instances
    np.testing.assert_allclose(truth.masks.masks[0][0], [0, 0, 60, 0, 60, 41])
    torch.testing.assert_close(truth.bboxes, torch.tensor([[0.0, 0.0, 60.0, 41.0]]))
    np.testing.assert_array_equal(sample.gt_instances.masks.masks[0][0], polygon)
    assert sample.gt_instances.bboxes[0, 2] == 88


def test_logs_and_best_checkpoint(tmp_path):
    """Three epochs: every value in the log is that epoch's, beside the training loss, and the best one is
    kept."""
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    items = seg_items(2)
    seen = []
    runner = runner_for(
        seg_model(),
        items,
        tmp_path,
        train_dataloader={
            'batch_size': 2,
            'num_workers': 0,
            'dataset': Samples(items),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'collate_fn': {'type': 'pseudo_collate'},
        },
        train_cfg={'by_epoch': True, 'max_epochs': 3, 'val_interval': 1},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.05}},
        default_hooks={
            'logger': {'type': 'LoggerHook', 'interval': 1},
            'checkpoint': {'type': 'CheckpointHook', 'interval': -1, 'save_best': 'val/loss'},
        },
        visualizer={
            'type': 'Visualizer',
            'vis_backends': [{'type': 'LocalVisBackend'}, {'type': 'TensorboardVisBackend'}],
        },
    )
    run = runner.val_loop.run
    runner.val_loop.run = lambda: seen.append(run()['val/loss'])
    runner.train()
    assert len(set(seen)) == 3

    (log,) = tmp_path.rglob('scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line['val/loss'] for line in lines if 'val/loss' in line] == pytest.approx(seen)
    assert sum('loss' in line for line in lines) == 3  # training's own
    (events,) = {path.parent for path in tmp_path.rglob('events.out.tfevents*')}
    accumulator = EventAccumulator(str(events)).Reload()
    assert [event.value for event in accumulator.Scalars('val/loss')] == pytest.approx(seen, rel=1e-6)
    assert len(accumulator.Scalars('val/decode.loss_ce')) == 3
    assert f'best_val_loss_epoch_{int(np.argmin(seen)) + 1}.pth' in {path.name for path in tmp_path.glob('best*')}


def _worker(rank: int, folder: str, state: dict, items: list[dict], queue) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    model = seg_model()
    model.load_state_dict(state)
    runner = runner_for(model, items, folder)
    runner.model = runner.wrap_model({'type': 'MMDistributedDataParallel'}, model)
    queue.put(runner.val())
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_loss_of_one(tmp_path):
    model, items = seg_model(), seg_items(4)
    expected = runner_for(model, items, tmp_path / 'one').val()
    queue = CONTEXT.SimpleQueue()
    torch.multiprocessing.start_processes(
        _worker, (str(tmp_path), model.state_dict(), items, queue), nprocs=2, start_method=CONTEXT.get_start_method()
    )
    for _ in range(2):
        assert queue.get() == pytest.approx(expected, rel=1e-5)
