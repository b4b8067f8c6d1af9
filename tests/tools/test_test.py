"""tools/test.py on a few generated scenes, both tasks."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image

from densevit.config.reading import configs_dir, load_config
from densevit.data.scenes import CLASSES, THINGS

from .conftest import DETECT, SEGMENT, load_tool, metrics, options, validation

TASKS = [(SEGMENT, 'segmentor', 'mIoU', CLASSES), (DETECT, 'detector', 'coco/segm_mAP', THINGS)]


def newest(work_dir):
    return next(path for name in ('iter_4.pth', 'epoch_2.pth') if (path := work_dir / name).is_file())


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        load_tool('test').parser().parse_args(['--help'])
    assert end.value.code == 0
    text = capsys.readouterr().out
    expected = (
        'config checkpoint --out --show-dir --report --tta --work-dir --cfg-options --launcher --seed '
        '--trust-checkpoint --debug'
    )
    assert [name for name in expected.split() if name not in text] == []


@pytest.mark.parametrize('config, fixture, name, classes', TASKS)
def test_metrics_and_pictures(tool, scenes, tmp_path, request, config, fixture, name, classes):
    work_dir = request.getfixturevalue(fixture)
    done = tool(
        'test', config, newest(work_dir), '--show-dir', tmp_path / 'pictures', '--work-dir', tmp_path,
        *options(config, scenes),
    )  # fmt: skip
    assert done.status == 0, done.err
    assert done.out.rstrip().endswith(f'metrics: {tmp_path}/metrics.json')
    values = metrics(tmp_path)
    assert values[name] == pytest.approx(validation(work_dir)[name])
    # a row per class, in the table and in the file
    assert list(values['per_class']) == list(classes)
    assert all(f'| {each} ' in done.out for each in classes)

    pictures = sorted((tmp_path / 'pictures').iterdir())
    assert [path.name for path in pictures] == [f'scene_{index:05}.png' for index in range(4)]
    height, width, margin, header = 64, 96, 6, 22
    for path in pictures:
        page = np.asarray(Image.open(path))
        assert page.shape[:2] == (height + 2 * margin + header, 3 * (width + margin) + margin)
        image, truth, prediction = (
            page[header + margin :, margin + index * (width + margin) :][:height, :width].astype(int)
            for index in range(3)
        )
        original = np.asarray(Image.open(scenes / 'coco' / 'val2017' / path.name))
        assert np.abs(image - original).max() == 0
        assert (truth != image).any()
        if config == SEGMENT:  # four updates do not teach a detector to be sure of anything
            assert (prediction != image).any() and (prediction != truth).any()


def test_json_has_null_for_what_cannot_be_scored(tool, scenes, segmentor, tmp_path):
    """One image does not show all classes; their IoU is nan, which JSON does not have."""
    one = ['test_dataloader.dataset.indices=1']
    out = tmp_path / 'results' / 'one.json'
    done = tool(
        'test', SEGMENT, newest(segmentor), '--out', out, '--work-dir', tmp_path, *options(SEGMENT, scenes, *one)
    )
    assert done.status == 0, done.err

    def refuse(constant):
        raise AssertionError(constant)

    values = json.loads(out.read_text(), parse_constant=refuse)
    assert None in [row['Acc'] for row in values['per_class'].values()]
    assert math.isfinite(values['mIoU'])


@pytest.mark.parametrize('config, fixture, name, classes', TASKS)
def test_tta(tool, scenes, tmp_path, request, config, fixture, name, classes):
    """The views of the config give another score than one view; one view alone gives that of no augmentation."""
    checkpoint = newest(request.getfixturevalue(fixture))
    plain = ['test', config, checkpoint, '--work-dir', tmp_path, *options(config, scenes)]
    values = []
    for name, more in (('metrics.json', []), ('metrics_tta.json', ['--tta', '--show-dir', tmp_path / 'pictures'])):
        done = tool(*plain, *more)
        assert done.status == 0, done.err
        values.append(metrics(tmp_path, name))
    assert values[0]['per_class'] != values[1]['per_class']
    assert len(list((tmp_path / 'pictures').iterdir())) == 4

    single = tmp_path / 'single.py'
    single.write_text(_single_view(config))
    done = tool('test', single, *plain[2:], '--tta')
    assert done.status == 0, done.err
    assert metrics(tmp_path, 'metrics_tta.json') == values[0]
    assert metrics(tmp_path) == values[0]  # not overwritten


def _single_view(config: str) -> str:
    """A config whose augmentation is the first view alone: scale 1, no flip."""
    pipeline = load_config(config)._cfg_dict.to_dict()['tta_pipeline']
    pipeline[1]['transforms'] = [views[:1] for views in pipeline[1]['transforms']]
    return f'_base_ = [{str(configs_dir() / f"{config}.py")!r}]\ntta_pipeline = {pipeline!r}\n'


def test_results_go_beside_the_checkpoint_and_leave_the_training_run_alone(tool, scenes, segmentor, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(segmentor, run)
    before = {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}
    # an option between the two arguments
    done = tool('test', SEGMENT, '--deterministic', newest(run), *options(SEGMENT, scenes))
    assert done.status == 0, done.err
    assert 'mIoU' in metrics(run)
    assert {path: path.read_bytes() for path in before} == before
    new = {path.relative_to(run).parts[0] for path in run.rglob('*') if path.is_file() and path not in before}
    assert new == {'metrics.json', 'test'}


def test_dry_run_without_checkpoint(tool, scenes, tmp_path):
    done = tool('test', SEGMENT, '--work-dir', tmp_path, *options(SEGMENT, scenes))
    assert done.status == 0, done.err
    assert 'WARNING - no checkpoint was given' in done.out
    assert metrics(tmp_path)['mIoU'] < 20


def test_checkpoints_that_cannot_be_used(tool, scenes, segmentor, tmp_path):
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(newest(segmentor).read_bytes()[:5000])
    for config, checkpoint, reason in (
        (SEGMENT, 'absent.pth', "'absent.pth' does not exist"),
        (SEGMENT, cut, 'is it whole?'),
        (DETECT, newest(segmentor), 'is that of a segmentor, and this MaskRCNN is a detector'),
    ):
        done = tool('test', config, checkpoint, '--work-dir', tmp_path, *options(config, scenes))
        assert done.status == 2
        assert reason in done.err and done.err.count('\n') == 1, done.err


def test_tta_needs_its_parts_in_the_config(tool, scenes, tmp_path):
    config = tmp_path / 'bare.py'
    config.write_text(_single_view(SEGMENT).partition('\n')[0] + '\ntta_pipeline = None\n')
    done = tool('test', config, '--tta', '--work-dir', tmp_path, *options(SEGMENT, scenes))
    assert done.status == 2
    assert 'needs tta_model and tta_pipeline' in done.err
