"""What the comparison page is made of: every number of the metafiles, and measurements beside them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('mmengine')

from densevit.engine.model_index import Family, read_families  # noqa: E402
from densevit.engine.model_table import axes_of, models_of, results_of  # noqa: E402
from densevit.errors import UserError  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = read_families(ROOT)
FAST, SLOW = 'semfpn_pvtv2-b0_ade20k', 'upernet_swin_ade20k'


def content(results: list[dict[str, Any]], threads: int = 2) -> dict[str, Any]:
    """As tools/benchmark.py writes it."""
    machine = {'cpu': 'a <processor>', 'threads': threads, 'date': '2026-01-02', 'rates': {}}
    return {'kind': 'inspect', 'machine': machine, 'results': results}


def measured(model: str, images_per_s: float, peak_bytes: int | None = 3_000_000, **more: Any) -> dict[str, Any]:
    result = dict(
        model=model, size=[512, 512], batch=1, train=False, dtype='float32', device='cpu', threads=2,
        images_per_s=images_per_s,
    )  # fmt: skip
    return result | ({} if peak_bytes is None else {'peak_bytes': peak_bytes}) | more


def test_every_result_of_the_metafiles_is_there():
    rows = results_of(FAMILIES)
    count = Counter(row['metric'] for row in rows)
    listed = Counter(
        f'{result["Dataset"]} {name.partition("(")[0]}'
        for family in FAMILIES
        for model in family.models
        for result in model['Results']
        for name in result['Metrics']
        if name in ('mIoU', 'mIoU(ms+flip)', 'box AP', 'mask AP')
    )
    assert count == listed and count['ADE20K mIoU'] >= 25 and count['COCO mask AP'] >= 15
    assert {row['metric'] for row in rows if row['measured']} == {'CamVid mIoU', 'nuclei box AP', 'nuclei mask AP'}
    swin = [row for row in rows if row['model'] == SLOW]
    many = 'several scales and flips'
    assert [(row['value'], row['source'], row['tested'], row['usual']) for row in swin] == [
        (44.51, 'reported by the official code', '', True),
        (45.81, 'reported by the official code', many, False),
        (44.41, 'reported by mmsegmentation', '', True),
        (45.79, 'reported by mmsegmentation', many, False),
    ]
    (own,) = [row for row in rows if row['metric'] == 'nuclei mask AP']
    assert own['usual'] and own['conditions'] and own['others'].startswith('mask AP50 ')
    assert not any(row['usual'] for row in rows if 'crops of 640' in row['conditions'])


def test_models_have_what_the_metafiles_count():
    models = models_of(FAMILIES)
    assert len(models) == sum(len(family.models) for family in FAMILIES) >= 97
    assert models[SLOW] == {
        'model': SLOW, 'short': 'swin', 'family': 'Swin Transformer', 'method': 'UPerNet', 'data': 'ADE20K',
        'size': (512, 512), 'params': 59.941862, 'macs': 135.373045632, 'schedule': '160000 iterations',
    }  # fmt: skip
    assert models['mask_rcnn_pvtv2-b0-3x_coco']['schedule'] == '36 epochs'
    assert {model['method'] for model in models.values()} == {
        'UPerNet', 'Semantic FPN', 'Mask R-CNN', 'Cascade Mask R-CNN',
    }  # fmt: skip


def test_a_model_that_was_not_counted():
    text = (ROOT / 'configs/cvt/metafile.yml').read_text().replace('    Metadata:', '    Something:')
    with pytest.raises(UserError, match='upernet_cvt_ade20k has no Metadata: run `make models`'):
        models_of([Family('configs/cvt/metafile.yml', text)])


def test_measurements_are_kept_apart_by_their_conditions():
    models = models_of(FAMILIES)
    results = [
        measured(FAST, 8.0), measured(f'configs/{SLOW}.py', 2.0, None), measured(SLOW, 3.0, size=[256, 256]),
        measured(SLOW, 4.0, dtype='bf16'), measured('densevit.SwinTransformer:T', 9.0),
    ]  # fmt: skip
    axes, unknown = axes_of(models, [content(results), content([measured(SLOW, 5.0)], threads=1)])
    assert unknown == ['densevit.SwinTransformer:T']
    throughput = [axis for axis in axes if axis['kind'] == 'throughput']
    assert [axis['values'] for axis in throughput] == [{FAST: 8.0, SLOW: 2.0}, {SLOW: 3.0}, {SLOW: 4.0}, {SLOW: 5.0}]
    assert [axis['values'] for axis in axes if axis['kind'] == 'memory'][0] == {FAST: 3.0}
    assert len({axis['id'] for axis in axes}) == len(axes) == 8
    assert [('256 x 256' in axis['under'], 'bf16' in axis['under']) for axis in throughput[:3]] == [
        (False, False), (True, False), (False, True),
    ]  # fmt: skip
    assert throughput[0]['where'] == 'a <processor>, 2 threads'
