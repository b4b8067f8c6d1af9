from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from PIL import Image

from densevit.errors import UserError
from densevit.evaluation.iou import IoUMetric, confusion_matrix, scores
from densevit.registry import METRICS
from tests.engine.toy_run import CONTEXT

CLASSES = ('sky', 'road', 'tree', 'car', 'bus', 'never seen')


def sample(pred, label, **meta) -> dict:
    return {
        'pred_sem_seg': {'data': torch.as_tensor(pred)[None]},
        'gt_sem_seg': {'data': torch.as_tensor(label)[None]},
        'img_path': 'images/some.jpg',
        **meta,
    }


def random_samples(number: int) -> list[dict]:
    """Predictions that are right in about 60 %; class 4 is predicted but not true, class 5 is neither."""
    samples = []
    for index in range(number):
        label = torch.randint(0, 4, (23 + index, 37))
        pred = torch.where(torch.rand(label.shape) < 0.6, label, torch.randint(0, 5, label.shape))
        label[torch.rand(label.shape) < 0.1] = 255
        samples.append(sample(pred, label))
    return samples


def evaluated(samples: list[dict], classes=CLASSES, **options) -> tuple[dict, IoUMetric]:
    metric = IoUMetric(**options)
    metric.dataset_meta = {'classes': classes}
    for start in range(0, len(samples), 2):
        metric.process({}, samples[start : start + 2])
    return metric.evaluate(len(samples)), metric


def test_equals_a_count_by_hand():
    samples = random_samples(3)
    matrix = np.zeros((6, 6), dtype=np.int64)
    for item in samples:
        for true, pred in zip(item['gt_sem_seg']['data'].flatten(), item['pred_sem_seg']['data'].flatten()):
            if true != 255:
                matrix[int(true), int(pred)] += 1
    counted = torch.zeros(6, 6, dtype=torch.int64)
    for item in samples:
        keep = item['gt_sem_seg']['data'] != 255
        counted += confusion_matrix(item['pred_sem_seg']['data'][keep], item['gt_sem_seg']['data'][keep], 6)
    np.testing.assert_array_equal(counted, matrix)

    metrics, metric = evaluated(samples)
    present = range(5)
    iou = [100 * matrix[i, i] / (matrix[i].sum() + matrix[:, i].sum() - matrix[i, i]) for i in present]
    acc = [100 * matrix[i, i] / matrix[i].sum() for i in range(4)]
    assert metrics['mIoU'] == pytest.approx(sum(iou) / 5, rel=1e-12)
    assert metrics['mAcc'] == pytest.approx(sum(acc) / 4, rel=1e-12)
    assert metrics['aAcc'] == pytest.approx(100 * np.trace(matrix) / matrix.sum(), rel=1e-12)
    assert list(metric.per_class) == list(CLASSES)
    assert metric.per_class['bus']['IoU'] == 0 and math.isnan(metric.per_class['bus']['Acc'])
    assert math.isnan(metric.per_class['never seen']['IoU'])
    assert metric.per_class['car'] == pytest.approx({'IoU': iou[3], 'Acc': acc[3]})


@pytest.mark.parametrize('label_dtype, pred_dtype', [(torch.uint8, torch.int64), (torch.int64, torch.float32)])
@pytest.mark.parametrize('ignore_index', [255, 254, 2, 0, 7, -100, 1000])
def test_ignored_pixels_count_for_nothing(ignore_index, label_dtype, pred_dtype):
    if label_dtype == torch.uint8 and not 0 <= ignore_index <= 255:
        pytest.skip('not in 8 bits')
    items = random_samples(3)
    for item in items:
        label, pred = item['gt_sem_seg'], item['pred_sem_seg']
        ignored = label['data'] == 255
        label['data'] = label['data'].where(~ignored, ignore_index)
        ignored = label['data'] == ignore_index  # 2 and 0 are classes otherwise
        pred['data'] = pred['data'].where(~ignored | (torch.rand(ignored.shape) < 0.5), 5)
    label, pred = (torch.cat([item[key]['data'].flatten() for item in items]) for key in ('gt_sem_seg', 'pred_sem_seg'))
    expected, _ = scores(confusion_matrix(pred[label != ignore_index], label[label != ignore_index], 6))
    for item in items:
        item['gt_sem_seg']['data'] = item['gt_sem_seg']['data'].to(label_dtype)
        item['pred_sem_seg']['data'] = item['pred_sem_seg']['data'].to(pred_dtype)
    assert evaluated(items, ignore_index=ignore_index)[0] == pytest.approx(expected, nan_ok=True, rel=1e-12)
    # as before, what is predicted there may be anything
    items[0]['pred_sem_seg']['data'][items[0]['gt_sem_seg']['data'] == ignore_index] = 99
    assert evaluated(items, ignore_index=ignore_index)[0] == pytest.approx(expected, nan_ok=True, rel=1e-12)


@pytest.mark.parametrize('wrong', [6, 7, 254, -1])
def test_every_label_outside_the_classes_is_found(wrong):
    label = torch.randint(0, 6, (4, 7))
    label[0, 0], label[3, 6] = 255, wrong
    with pytest.raises(UserError, match=f'the label map of .* contains the value {wrong},'):
        evaluated([sample(torch.zeros(4, 7, dtype=torch.int64), label)])
    for value in (wrong, 255):
        pred = torch.zeros(4, 7, dtype=torch.int64)
        pred[3, 5] = value
        with pytest.raises(UserError, match=f'the prediction for .* contains the value {value},'):
            evaluated([sample(pred, label.clamp(max=5, min=0))])


def test_equals_mmsegmentation():
    theirs = pytest.importorskip('mmseg.evaluation').IoUMetric()
    theirs.dataset_meta = {'classes': CLASSES}
    samples = random_samples(5)
    theirs.process({}, samples)
    expected = theirs.evaluate(len(samples))
    ours, _ = evaluated(samples)
    assert set(ours) == set(expected) == {'aAcc', 'mIoU', 'mAcc'}
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=0.00501), name  # theirs is rounded to two decimals


def test_large_counts_are_exact():
    # float32 cannot count beyond 2**24: 16,777,217 + 1 would be lost.
    hits = 2**40 + 1
    summary, columns = scores(torch.tensor([[hits, 1], [0, 3]]))
    assert columns['IoU'].tolist() == [100 * hits / (hits + 1), 75.0]
    assert summary['aAcc'] == 100 * (hits + 3) / (hits + 4)


def test_second_evaluation_starts_at_zero():
    samples = random_samples(4)
    metric = IoUMetric()
    metric.dataset_meta = {'classes': CLASSES}
    results = []
    for _ in range(2):
        metric.process({}, samples)
        results.append(metric.evaluate(4))
    assert results[0] == results[1]


def test_memory_does_not_grow_with_the_images():
    metric = IoUMetric()
    metric.dataset_meta = {'classes': CLASSES}
    metric.process({}, random_samples(6))
    assert metric.results == []


def test_label_outside_the_classes_is_named():
    label = torch.zeros(4, 7, dtype=torch.int64)
    label[1, 2] = 6
    with pytest.raises(UserError, match=r'images/some\.jpg contains the value 6, but there are 6 classes'):
        evaluated([sample(torch.zeros(4, 7, dtype=torch.int64), label)])
    label[1, 2] = 255
    assert evaluated([sample(torch.zeros(4, 7, dtype=torch.int64), label)])[0]['mIoU'] == 100


def test_prediction_outside_the_classes_is_named():
    pred = torch.full((4, 7), 149)
    with pytest.raises(UserError, match='prediction for images/some.jpg contains the value 149'):
        evaluated([sample(pred, torch.zeros(4, 7, dtype=torch.int64))])


def test_missing_or_resized_label_map_is_named():
    pred = torch.zeros(4, 7, dtype=torch.int64)
    with pytest.raises(UserError, match='LoadAnnotations'):
        evaluated([{'pred_sem_seg': {'data': pred[None]}, 'img_path': 'a.jpg'}])
    with pytest.raises(UserError, match=r'\(8, 14\) high and wide, the prediction \(4, 7\)'):
        evaluated([sample(pred, torch.zeros(8, 14, dtype=torch.int64))])


def test_predictions_are_written_as_the_server_expects(tmp_path):
    pred = torch.tensor([[0, 149, 3], [7, 0, 1]])
    with pytest.raises(UserError, match='output_dir'):
        IoUMetric(format_only=True)
    for reduce_zero_label, shift in ((True, 1), (False, 0)):
        metric = IoUMetric(format_only=True, output_dir=str(tmp_path / str(shift)))
        metric.dataset_meta = {'classes': tuple(map(str, range(150)))}
        metric.process(
            {},
            [
                {
                    'pred_sem_seg': {'data': pred[None]},
                    'img_path': 'x/ADE_test_1.jpg',
                    'reduce_zero_label': reduce_zero_label,
                }
            ],
        )
        assert metric.evaluate(1) == {}
        written = np.asarray(Image.open(tmp_path / str(shift) / 'ADE_test_1.png'))
        np.testing.assert_array_equal(written, pred.numpy() + shift)


def test_builds_by_name_and_takes_a_prefix():
    metric = METRICS.build({'type': 'densevit.IoUMetric', 'prefix': 'val'})
    metric.dataset_meta = {'classes': CLASSES}
    metric.process({}, random_samples(1))
    assert set(metric.evaluate(1)) == {'val/aAcc', 'val/mIoU', 'val/mAcc'}


@pytest.mark.parametrize('name', ['camvid', 'ade20k_samples'])
def test_truth_as_prediction_scores_one(shared_data, name):
    transforms = pytest.importorskip('mmseg.datasets.transforms')
    ade20k = name == 'ade20k_samples'
    classes = json.loads((shared_data / name / ('classes150.json' if ade20k else 'classes.json')).read_text())
    load = transforms.LoadAnnotations(reduce_zero_label=ade20k)
    samples = []
    for path in sorted((shared_data / name / 'annotations' / 'validation').glob('*.png')):
        label = load({'seg_map_path': str(path), 'seg_fields': [], 'reduce_zero_label': ade20k})['gt_seg_map']
        label = torch.from_numpy(label.astype(np.int64))
        pred = torch.where(label == 255, 0, label)
        samples.append(sample(pred, label, img_path=str(path)))
    assert len(samples) == {'camvid': 101, 'ade20k_samples': 9}[name]
    metrics, metric = evaluated(samples, classes)
    assert metrics == {'aAcc': 100, 'mIoU': 100, 'mAcc': 100}
    assert len(metric.per_class) == len(classes)


def _worker(rank: int, store: str, samples: list[dict], queue) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    metric = IoUMetric()
    metric.dataset_meta = {'classes': CLASSES}
    padded = [*samples, samples[0]]  # as mmengine's sampler does for five images and two processes
    metric.process({}, padded[rank::2])
    metrics = metric.evaluate(len(samples))
    queue.put((rank, metrics))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_count_every_image_once(tmp_path):
    samples = random_samples(5)
    expected, _ = evaluated(samples)
    queue = CONTEXT.SimpleQueue()
    torch.multiprocessing.start_processes(
        _worker, (str(tmp_path / 'store'), samples, queue), nprocs=2, start_method=CONTEXT.get_start_method()
    )
    assert dict(queue.get() for _ in range(2)) == {0: expected, 1: expected}
