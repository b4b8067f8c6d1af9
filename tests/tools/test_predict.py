"""tools/predict.py: images, folders, videos, mistakes, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.engine.toy_run import Child
from tests.inference.tiny import DETECT, SEGMENT, checkpoint, config

from .conftest import call, load_tool

SMALL = ['--cfg-options', 'model.backbone.arch.depth=1']
OPTIONS = {SEGMENT: [*SMALL, 'model.decode_head.channels=16'], DETECT: SMALL}


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    return {name: checkpoint(config(name), folder / f'{name}.pth') for name in (SEGMENT, DETECT)}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    (folder / 'sub').mkdir(parents=True)
    for seed, name in enumerate(('a.jpg', 'a.png', 'sub/a.png')):
        noise = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
        Image.fromarray(noise).resize((64, 45)).save(folder / name)
    return folder


@pytest.fixture
def predict(tool, weights):
    def run(config, *arguments):
        return tool('predict', '--device', 'cpu', config, weights[config], *arguments, *OPTIONS[config])

    return run


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        load_tool('predict').parser().parse_args(['--help'])
    assert end.value.code == 0
    text = capsys.readouterr().out
    expected = (
        'config checkpoint input --out --score --device --batch --window --stride --no-overlays --format --json '
        '--dataset-ids --max-pixels --cfg-options --trust-checkpoint --debug'
    )
    assert [name for name in expected.split() if name not in text] == []


def test_a_folder_of_images(predict, photos, tmp_path):
    done = predict(SEGMENT, photos, '--out', tmp_path / 'out')
    assert done.status == 0, done.err
    assert done.out.rstrip().endswith(f'3 of 3 inputs: {tmp_path}/out')
    assert files(tmp_path / 'out') == [
        'classes.json', 'labels/a_jpg.png', 'labels/a_png.png', 'labels/sub/a.png',
        'overlays/a_jpg.jpg', 'overlays/a_png.jpg', 'overlays/sub/a.jpg',
    ]  # fmt: skip
    labels = Image.open(tmp_path / 'out/labels/sub/a.png')
    assert labels.mode == 'P' and labels.size == (64, 45)
    assert files(photos) == ['a.jpg', 'a.png', 'sub/a.png']

    others = ('--dataset-ids', '--no-overlays', '--json', '--batch', 2)
    again = predict(SEGMENT, photos, '--out', tmp_path / 'ids', *others)
    assert again.status == 0, again.err
    assert files(tmp_path / 'ids') == [
        'classes.json', 'labels/a_jpg.png', 'labels/a_png.png', 'labels/sub/a.png', 'predictions.json'
    ]  # fmt: skip
    assert json.loads((tmp_path / 'ids/classes.json').read_text())['classes'][0]['dataset_id'] == 1
    shifted = np.asarray(Image.open(tmp_path / 'ids/labels/sub/a.png'))
    assert (shifted.astype(int) - np.asarray(labels) == 1).mean() > 0.999


def test_detections(predict, photos, tmp_path):
    for index, name in enumerate(('a.jpg', 'a.png', 'sub/a.png')):
        (photos / name).rename(photos / f'{index:012}.{name[-3:]}')
    done = predict(DETECT, photos, '--out', tmp_path / 'out', '--score', 0.2, '--format', 'png')
    assert done.status == 0, done.err
    assert files(tmp_path / 'out') == [
        'classes.json', *(f'overlays/{index:012}.png' for index in range(3)), 'predictions.json'
    ]  # fmt: skip
    content = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert [each['id'] for each in content['images']] == [0, 1, 2]  # their names are numbers
    assert len(content['annotations']) > 3
    assert min(each['score'] for each in content['annotations']) >= 0.2
    assert set(content['annotations'][0]) >= {'image_id', 'category_id', 'bbox', 'score', 'segmentation', 'area'}


def test_what_cannot_be_read_is_listed_at_the_end(predict, photos, tmp_path):
    (photos / 'empty.jpg').write_bytes(b'')
    (photos / 'clip.mp4').write_bytes(b'no video')
    done = predict(SEGMENT, photos, '--out', tmp_path / 'out')
    assert done.status == 1
    assert '2 of 5 inputs failed' in done.err and 'empty.jpg' in done.err and 'clip.mp4' in done.err
    assert 'Traceback' not in done.err
    assert len(files(tmp_path / 'out')) == 7 and '3 of 5 inputs' in done.out


def test_windows_and_videos(predict, tmp_path):
    path = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5, (96, 64))
    for index in range(3):
        writer.write(np.full((64, 96, 3), index * 80, np.uint8))
    writer.release()
    for name in (SEGMENT, DETECT):
        out = tmp_path / name
        done = predict(name, path, '--out', out, '--window', 48, 64, '--stride', 32, 48, '--batch', 2, '--score', 0.1)
        assert done.status == 0, done.err
        assert cv2.VideoCapture(str(out / 'overlays/clip.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert len(files(tmp_path / SEGMENT / 'labels/clip.avi')) == 3
    images = json.loads((tmp_path / DETECT / 'predictions.json').read_text())['images']
    assert [each['frame_id'] for each in images] == [0, 1, 2]


@pytest.mark.parametrize(
    'arguments, says',
    [
        (['nowhere'], "input 'nowhere': there is no such file or folder"),
        (['nowhere', '{photos}', 'gone'], "input 'nowhere', 'gone': there is no such file or folder"),
        (['{photos}', '--score', '2'], 'score=2'),
        (['{photos}/*.tiff'], 'no image and no video in this pattern'),
        (['{photos}', '--out', '{photos}/out'], 'lies in the input folder'),
        (['{photos}/a.png', '--out', '{photos}'], 'has the input .*a.png. in it'),
        (['{photos}', '--stride', '3', '3'], 'give window'),
        (['{photos}', '--device', 'tpu'], "device='tpu'"),
        (['{photos}', '--batch', '0'], 'batch_size=0'),
    ],
)
def test_mistakes(predict, photos, tmp_path, arguments, says):
    given = [each.format(photos=photos) for each in arguments]
    given += [] if '--out' in given else ['--out', str(tmp_path / 'out')]
    done = predict(SEGMENT, *given)
    assert done.status == 2
    line = done.err.strip().splitlines()[-1]
    assert line.startswith('error: ') and re.search(says, line)
    assert not (tmp_path / 'out').exists()


def test_a_folder_that_cannot_be_made(predict, photos, tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    done = predict(SEGMENT, photos / 'a.png', '--out', tmp_path / 'file' / 'out')
    assert done.status == 2 and 'error: cannot write below --out' in done.err and 'Traceback' not in done.err


def test_random_weights_are_said(tool, photos, tmp_path):
    done = tool('predict', SEGMENT, 'none', photos / 'a.png', '--out', tmp_path / 'out', '--device', 'cpu')
    assert done.status == 0 and 'warning: no checkpoint was given' in done.err


@pytest.mark.skipif(os.name != 'posix', reason='sends SIGINT')
def test_ctrl_c_leaves_whole_files(weights, photos, tmp_path):
    many = tmp_path / 'many.txt'
    for index in range(400):
        (photos / f'{index:03}.png').write_bytes((photos / 'a.png').read_bytes())
    many.write_text('\n'.join(f'photos/{index:03}.png' for index in range(400)))
    out = tmp_path / 'out'
    arguments = ('--out', out, '--score', '0.1', '--device', 'cpu', *OPTIONS[DETECT])
    child = Child(tmp_path, call, 'predict', DETECT, weights[DETECT], many, *arguments)
    try:
        deadline = time.monotonic() + 600
        while not (out / 'overlays').is_dir() and child.process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        child.send(signal.SIGINT)
        status, said = child.end(), child.text()
    finally:
        child.kill()
    assert status == 130, said
    assert 'of 400 inputs are complete' in said and 'stopped.' in said and 'Traceback' not in said
    content = json.loads((out / 'predictions.json').read_text())
    assert 0 < len(content['images']) < 400
    known = {each['id'] for each in content['images']}
    assert {each['image_id'] for each in content['annotations']} <= known
    for path in (out / 'overlays').rglob('*'):
        if path.is_file():
            assert path.suffix == '.jpg'
            Image.open(path).load()
