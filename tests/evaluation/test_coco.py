from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')

from faster_coco_eval import COCO
from faster_coco_eval import mask as mask_ops
from pycocotools import coco as oracle_coco
from pycocotools.cocoeval import COCOeval as OracleEval

from densevit.errors import UserError
from densevit.evaluation.coco import CocoMetric, coco_evaluate
from densevit.registry import METRICS

HEIGHT, WIDTH = 120, 200


def rle(mask: np.ndarray) -> dict:
    encoded = mask_ops.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {'size': list(encoded['size']), 'counts': encoded['counts'].decode()}


def ellipse(x: float, y: float, w: float, h: float) -> np.ndarray:
    ys, xs = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return ((xs - x - w / 2) / (w / 2)) ** 2 + ((ys - y - h / 2) / (h / 2)) ** 2 <= 1


def random_truth(rng: np.random.Generator, *, crowd: bool = True) -> dict:
    """Eight images (one empty), three categories whose ids are not in order, some crowds."""
    categories = [{'id': 7, 'name': 'cat'}, {'id': 2, 'name': 'dog'}, {'id': 90, 'name': 'rare'}]
    images = [{'id': 10 + index, 'width': WIDTH, 'height': HEIGHT, 'file_name': f'{index}.jpg'} for index in range(8)]
    annotations = []
    for image in images[:-1]:
        for _ in range(rng.integers(2, 7)):
            w, h = rng.uniform(6, 110, 2)
            x, y = rng.uniform(0, WIDTH - w), rng.uniform(0, max(HEIGHT - h, 1))
            mask = ellipse(x, y, w, h)
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image['id'],
                    'category_id': int(rng.choice([7, 2])),
                    'bbox': [float(value) for value in (x, y, w, h)],
                    'area': float(mask.sum()),
                    'segmentation': rle(mask),
                    'iscrowd': int(crowd and rng.random() < 0.15),
                }
            )
    return {'info': {}, 'images': images, 'categories': categories, 'annotations': annotations}


def random_detections(rng: np.random.Generator, truth: dict) -> list[dict]:
    """The truth, shaken, some twice, some missed, some of a wrong class, and some from nowhere."""
    detections = []
    for annotation in truth['annotations'] * 2:
        if rng.random() < 0.25:
            continue
        x, y, w, h = np.array(annotation['bbox']) * rng.normal(1, 0.06, 4)
        detections.append(
            {
                'image_id': annotation['image_id'],
                'category_id': annotation['category_id'] if rng.random() < 0.9 else int(rng.choice([7, 2, 90])),
                'bbox': [float(value) for value in (x, y, w, h)],
                'score': float(rng.random()),
                'segmentation': rle(ellipse(x, y, w, h)),
            }
        )
    return detections


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
@pytest.mark.parametrize('seed', range(3))
def test_engine_equals_pycocotools(iou_type, seed):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    detections = random_detections(rng, truth)

    oracle_truth = oracle_coco.COCO()
    oracle_truth.dataset = copy.deepcopy(truth)
    oracle_truth.createIndex()
    oracle_detections = copy.deepcopy(detections)
    if iou_type == 'segm':
        for detection in oracle_detections:
            del detection['bbox']
    oracle = OracleEval(oracle_truth, oracle_truth.loadRes(oracle_detections), iou_type)
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()

    ours = coco_evaluate(COCO(truth), detections, iou_type)
    assert len(ours.stats) == 12
    assert 0.05 < ours.stats[0] < 0.95
    np.testing.assert_allclose(ours.stats, oracle.stats, rtol=0, atol=1e-12)


def samples_of(truth: dict, detections: list[dict], *, masks: bool = True) -> list[dict]:
    labels = {category['id']: label for label, category in enumerate(truth['categories'])}
    samples = []
    for image in truth['images']:
        found = [item for item in detections if item['image_id'] == image['id']]
        boxes = torch.tensor([item['bbox'] for item in found], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        pred = {
            'bboxes': boxes,
            'scores': torch.tensor([item['score'] for item in found], dtype=torch.float64),
            'labels': torch.tensor([labels[item['category_id']] for item in found], dtype=torch.int64),
        }
        if masks:
            decoded = [mask_ops.decode(item['segmentation']) for item in found]
            pred['masks'] = torch.from_numpy(
                np.stack(decoded).astype(bool) if decoded else np.zeros((0, image['height'], image['width']), bool)
            )
        samples.append(
            {
                'img_id': image['id'],
                'ori_shape': (image['height'], image['width']),
                'pred_instances': pred,
            }
        )
    return samples


def evaluated(truth: dict, samples: list[dict], tmp_path, cls=CocoMetric, **options) -> tuple[dict, CocoMetric]:
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps(truth))
    metric = cls(ann_file=str(path), metric=['bbox', 'segm'], **options)
    metric.dataset_meta = {'classes': [category['name'] for category in truth['categories']]}
    for start in range(0, len(samples), 3):
        metric.process({}, samples[start : start + 3])
    return metric.evaluate(len(samples)), metric


def test_metric_equals_mmdetection(tmp_path):
    from mmdet.evaluation.metrics import CocoMetric as Theirs

    rng = np.random.default_rng(5)
    truth = random_truth(rng)
    samples = samples_of(truth, random_detections(rng, truth))
    expected, _ = evaluated(truth, copy.deepcopy(samples), tmp_path, Theirs)
    ours, _ = evaluated(truth, samples, tmp_path)
    assert list(ours) == list(expected)
    assert 'coco/segm_mAP_50' in ours
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=0.000501), name  # theirs is rounded to three decimals


def test_per_class_rows_belong_to_their_class(tmp_path):
    """Cats are found, dogs are not; the file lists cat (id 7) before dog (id 2)."""
    truth = random_truth(np.random.default_rng(1), crowd=False)
    cats = [{**item, 'score': 1.0} for item in truth['annotations'] if item['category_id'] == 7]
    metrics, metric = evaluated(truth, samples_of(truth, cats), tmp_path)
    assert list(metric.per_class) == ['cat', 'dog', 'rare']
    for kind in ('bbox', 'segm'):
        assert metric.per_class['cat'][f'{kind}_mAP'] == pytest.approx(1)
        assert metric.per_class['dog'][f'{kind}_mAP'] == 0
        assert math.isnan(metric.per_class['rare'][f'{kind}_mAP_50'])
        assert metrics[f'coco/{kind}_mAP'] == pytest.approx(0.5)


def test_nothing_found_scores_zero(tmp_path):
    truth = random_truth(np.random.default_rng(1))
    metrics, metric = evaluated(truth, samples_of(truth, []), tmp_path)
    assert len(metrics) == 12
    assert all(metrics[f'coco/{kind}_{name}'] == 0 for kind in ('bbox', 'segm') for name in ('mAP', 'mAP_50', 'mAP_75'))
    assert metric.per_class['cat']['segm_mAP'] == 0


def test_only_processed_images_are_scored(tmp_path):
    truth = random_truth(np.random.default_rng(1), crowd=False)
    samples = samples_of(truth, [{**item, 'score': 1.0} for item in truth['annotations']])
    assert evaluated(truth, samples[:3], tmp_path)[0]['coco/bbox_mAP'] == pytest.approx(1)


def test_truth_from_the_data_samples():
    truth = random_truth(np.random.default_rng(1), crowd=False)
    samples = samples_of(truth, [{**item, 'score': 1.0} for item in truth['annotations']], masks=False)
    labels = {category['id']: label for label, category in enumerate(truth['categories'])}
    for sample in samples:
        sample['instances'] = [
            {'bbox': [x, y, x + w, y + h], 'bbox_label': labels[item['category_id']], 'ignore_flag': 0}
            for item in truth['annotations']
            if item['image_id'] == sample['img_id']
            for x, y, w, h in [item['bbox']]
        ]
    metric = METRICS.build({'type': 'densevit.CocoMetric'})
    metric.dataset_meta = {'classes': ['cat', 'dog', 'rare']}
    metric.process({}, samples)
    assert metric.evaluate(len(samples))['coco/bbox_mAP'] == pytest.approx(1)


def test_result_files(tmp_path):
    truth = random_truth(np.random.default_rng(1))
    samples = samples_of(truth, random_detections(np.random.default_rng(2), truth))
    metrics, _ = evaluated(truth, samples, tmp_path, outfile_prefix=str(tmp_path / 'out'), format_only=True)
    assert metrics == {}
    for kind in ('bbox', 'segm'):
        results = json.loads((tmp_path / f'out.{kind}.json').read_text())
        assert results and {item['category_id'] for item in results} <= {7, 2, 90}


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match='proposal_fast'):
        CocoMetric(metric='proposal_fast')
    with pytest.raises(UserError, match='outfile_prefix'):
        CocoMetric(format_only=True)
    truth = random_truth(np.random.default_rng(1))
    with pytest.raises(UserError, match="metric='bbox'"):
        evaluated(truth, samples_of(truth, [], masks=False), tmp_path)
    path = tmp_path / 'truth.json'
    metric = CocoMetric(ann_file=str(path))
    metric.dataset_meta = {'classes': ['cat', 'wolf']}
    metric.process({}, samples_of(truth, [], masks=False))
    with pytest.raises(UserError, match='expected cat, wolf; the file has cat, dog, rare'):
        metric.evaluate(8)


@pytest.mark.parametrize('name', ['coco_ccby', 'nuclei'])
def test_truth_as_prediction_scores_one(shared_data, tmp_path, name):
    truth = json.loads((shared_data / name / 'annotations' / 'instances_val.json').read_text())
    sizes = {image['id']: (image['height'], image['width']) for image in truth['images']}
    if name == 'coco_ccby':
        assert any(item['iscrowd'] for item in truth['annotations'])
    detections = []
    for item in truth['annotations']:
        if item['iscrowd']:
            continue  # a crowd cannot be found: it only forgives detections within it
        segmentation = item['segmentation']
        if isinstance(segmentation, list):
            segmentation = mask_ops.merge(mask_ops.frPyObjects(segmentation, *sizes[item['image_id']]))
        detections.append({**item, 'segmentation': segmentation, 'score': 1.0})
    metrics, metric = evaluated(truth, samples_of(truth, detections), tmp_path)
    for kind in ('bbox', 'segm'):
        for item in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l'):
            assert metrics[f'coco/{kind}_{item}'] in (pytest.approx(1, abs=1e-12), -1), (kind, item)
        assert metrics[f'coco/{kind}_mAP'] == pytest.approx(1, abs=1e-12)
    scored = [row['segm_mAP'] for row in metric.per_class.values() if not math.isnan(row['segm_mAP'])]
    assert scored == pytest.approx([1] * len(scored))
    assert len(scored) == len({item['category_id'] for item in detections})
