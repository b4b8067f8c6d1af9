"""tools/test.py --report and tools/compare_runs.py on a few generated scenes, both tasks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from densevit.data.scenes import CLASSES, THINGS

from .conftest import DETECT, SEGMENT, metrics, options

TASKS = [(SEGMENT, 'segmentor', 'iter_4.pth', CLASSES), (DETECT, 'detector', 'epoch_2.pth', THINGS)]


def report(folder):
    return json.loads((folder / 'report.json').read_text())


@pytest.mark.parametrize('config, fixture, checkpoint, classes', TASKS)
def test_report(tool, scenes, tmp_path, request, config, fixture, checkpoint, classes):
    work_dir = request.getfixturevalue(fixture)
    done = tool(
        'test', config, work_dir / checkpoint, '--report', tmp_path / 'new' / 'report', '--work-dir', tmp_path,
        *options(config, scenes),
    )  # fmt: skip
    assert done.status == 0, done.err
    folder = tmp_path / 'new' / 'report'
    assert f'report: {folder}/index.html (4 images' in done.out
    data, values = report(folder), metrics(tmp_path)
    assert data['classes'] == list(classes) and list(data['per_class']) == list(classes)
    assert data['metrics'] == {name: value for name, value in values.items() if name != 'per_class'}
    assert [row['name'] for row in data['images']] == [f'scene_{index:05}.png' for index in range(4)]
    matrix = np.array(data['confusion'])
    if config == SEGMENT:
        assert 100 * matrix.trace() / matrix.sum() == pytest.approx(values['aAcc'])
    else:
        truth = json.loads((scenes / 'coco' / 'annotations' / 'instances_val2017.json').read_text())
        objects = [each for each in truth['annotations'] if not each['iscrowd']]
        assert matrix[:-1].sum() == len(objects)
        assert set(data['curves']) == {'bbox', 'segm'}
    assert [step for step, _ in data['training']['lr']]
    total = data['card']['parts'][-1]
    assert total['part'] == 'total' and total['params'] > 1000 and total['macs'] > 1000
    assert 'loaded' in data['card']['facts']['weights']
    assert data['card']['facts']['data'].startswith('scenes, ')
    told = {row['name']: row for row in data['conditions']}
    assert told['images']['value'] == '4' and told['views']['value'] == 'one' and not told['views']['unusual']
    assert told['options']['unusual'] and 'model.backbone.arch.depth=1' in told['options']['value']
    page = (folder / 'index.html').read_text()
    assert page.count('class="card"') == 4 + 4  # two worst and two best, all
    assert 'id="confusion-matrix"' in page and 'id="training-1"' in page


def test_report_of_random_weights_with_averaging(tool, scenes, tmp_path):
    done = tool(
        'test', SEGMENT, '--tta', '--report', tmp_path / 'report', '--work-dir', tmp_path, *options(SEGMENT, scenes)
    )
    assert done.status == 0, done.err
    data = report(tmp_path / 'report')
    assert data['training'] == {} and data['card']['facts']['weights'] == 'random'
    assert [row['name'] for row in data['conditions'] if row['unusual']] == ['views', 'options']
    assert 'averaged (test-time augmentation)' in (tmp_path / 'report' / 'index.html').read_text()
    matrix = np.array(data['confusion'])
    assert 100 * matrix.trace() / matrix.sum() == pytest.approx(metrics(tmp_path, 'metrics_tta.json')['aAcc'])


def test_a_folder_that_is_a_file(tool, scenes, tmp_path):
    (tmp_path / 'report').write_text('')
    done = tool('test', SEGMENT, '--report', tmp_path / 'report', '--work-dir', tmp_path, *options(SEGMENT, scenes))
    assert done.status == 2
    assert f'--report {tmp_path}/report: the folder cannot be made' in done.err and 'Traceback' not in done.err


def test_without_the_option_nothing_is_collected(tool, scenes, segmentor, tmp_path, monkeypatch):
    from densevit.engine.report_hook import ReportHook

    def fail(*args, **kwargs):
        raise AssertionError('the hook is there')

    monkeypatch.setattr(ReportHook, 'before_test_epoch', fail)
    done = tool('test', SEGMENT, segmentor / 'iter_4.pth', '--work-dir', tmp_path, *options(SEGMENT, scenes))
    assert done.status == 0, done.err


def test_two_runs(tool, scenes, segmentor, tmp_path):
    for name, arguments in (('trained', [segmentor / 'iter_4.pth']), ('random', [])):
        done = tool(
            'test', SEGMENT, *arguments, '--report', tmp_path / name, '--work-dir', tmp_path / 'work',
            *options(SEGMENT, scenes),
        )  # fmt: skip
        assert done.status == 0, done.err
    done = tool('compare_runs', tmp_path / 'random', tmp_path / 'trained', '--out', tmp_path / 'runs.html')
    assert done.status == 0, done.err
    assert done.out.rstrip().endswith(f'page: {tmp_path}/runs.html')
    assert '<title>random and trained</title>' in (tmp_path / 'runs.html').read_text()


def test_a_run_without_a_report(tool, tmp_path):
    done = tool('compare_runs', tmp_path, tmp_path)
    assert done.status == 2
    assert 'holds no report.json: write one with tools/test.py' in done.err
