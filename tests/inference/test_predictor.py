"""Predictions of images: those of tools/test.py, in batches, of any size, without a data set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from PIL import Image

import densevit
from densevit.config.reading import load_config
from densevit.data.scenes import CLASSES, THINGS, generate
from densevit.engine.options import RunOptions, apply_options
from densevit.engine.runner import build_runner
from densevit.errors import UserError
from densevit.inference.prediction import Detection, Segmentation, encode_masks
from tests.inference.tiny import DETECT, SEGMENT, checkpoint, config
from tests.scope import scope_restored

HEIGHT = 4000 * int(os.environ.get('DENSEVIT_TEST_SCALE', '1'))  # of the image that takes little memory


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    return {name: checkpoint(config(name), folder / f'{name}.pth') for name in (SEGMENT, DETECT)}


@pytest.fixture(scope='module')
def segmentor(weights):
    return densevit.Predictor(config(SEGMENT), weights[SEGMENT], device='cpu')


@pytest.fixture(scope='module')
def detector(weights):
    return densevit.Predictor(config(DETECT), weights[DETECT], device='cpu', score=0.2)


def image(height=64, width=96, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


class Collect(Hook):
    def __init__(self):
        self.samples = {}

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for sample in outputs:
            self.samples[sample.img_path] = sample


@pytest.mark.parametrize('name', [SEGMENT, DETECT])
def test_the_same_as_tools_test(weights, tmp_path, name):
    scenes = generate(tmp_path / 'scenes', 2, 3, (64, 96), 0) / ('ade' if name == SEGMENT else 'coco')
    options = {'data_root': str(scenes), 'test_dataloader.num_workers': 0}
    cfg = config(name, **options, **{'test_dataloader.persistent_workers': False, 'test_dataloader.batch_size': 1})
    tested = Collect()
    with scope_restored():
        runner = build_runner(apply_options(cfg, RunOptions(work_dir=str(tmp_path), load_from=weights[name])))
        runner.register_hook(tested)
        runner.test()
    assert len(tested.samples) == 3
    predictor = densevit.Predictor(config(name), weights[name], device='cpu', score=0, fold=False)
    folded = densevit.Predictor(config(name), weights[name], device='cpu', score=0)
    for path, expected in tested.samples.items():
        found = predictor(path)
        if name == SEGMENT:
            assert len(np.unique(found.labels)) > 1
            np.testing.assert_array_equal(found.labels, expected.pred_sem_seg.data[0])
            assert (folded(path).labels == found.labels).mean() > 0.999  # ties fall otherwise
        else:
            expected = expected.pred_instances
            assert len(found) == len(expected) > 3
            np.testing.assert_array_equal(found.boxes, expected.bboxes)
            np.testing.assert_array_equal(found.scores, expected.scores)
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_array_equal(found.masks, expected.masks.numpy())


def test_a_segmentation(segmentor):
    found = segmentor(image(51, 83))
    assert isinstance(found, Segmentation) and segmentor.task == 'segmentation'
    assert found.classes == CLASSES and len(found.palette) == len(CLASSES)
    assert found.labels.shape == found.size == (51, 83) and found.labels.dtype == np.uint8
    probabilities = found.probabilities
    assert probabilities.shape == (len(CLASSES), 51, 83)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-5)
    assert (probabilities.argmax(axis=0) == found.labels).mean() > 0.999
    assert found.overlay().shape == (51, 83, 3) and (found.overlay() != found.image).any()
    assert CLASSES[found.labels[0, 0]] in repr(found)


def test_a_detection(detector):
    found = detector(image(64, 96))
    assert isinstance(found, Detection) and detector.task == 'detection' and found.classes == THINGS
    assert len(found) == len(found.boxes) == len(found.labels) == len(found.rles) == len(found.names) > 1
    assert (found.scores >= 0.2).all() and (np.diff(found.scores) <= 0).all()
    assert found.masks.shape == (len(found), 64, 96) and found.masks.any()
    assert (found.boxes[:, :2] <= found.boxes[:, 2:]).all() and found.boxes[:, 2].max() <= 96
    assert found.names[0] in repr(found)
    assert (found.overlay() != found.image).any()
    nothing = densevit.Predictor.__call__  # the same with nothing found
    detector.score, before = 1.1, detector.score
    try:
        empty = nothing(detector, image(64, 96))
    finally:
        detector.score = before
    assert len(empty) == 0 and empty.masks.shape == (0, 64, 96) and (empty.overlay() == empty.image).all()


@pytest.mark.parametrize('size', [2, 3, 8])
def test_a_batch_gives_what_its_images_give(segmentor, detector, size):
    images = [image(64, 96, 0), image(40, 33, 1), image(64, 96, 2), image(64, 96, 3), image(40, 33, 4)]
    for predictor in (segmentor, detector):
        single = [predictor(each) for each in images]
        predictor.batch_size = size
        try:
            calls = []
            hook = predictor.model.backbone.register_forward_pre_hook(
                lambda _, args, calls=calls: calls.append(len(args[0]))
            )
            together = predictor(images)
        finally:
            predictor.batch_size = 1
            hook.remove()
        assert sorted(calls, reverse=True) == {2: [2, 2, 1], 3: [3, 2], 8: [3, 2]}[size]
        for one, other in zip(single, together, strict=True):
            assert one.size == other.size
            if isinstance(one, Segmentation):
                assert (one.labels == other.labels).mean() > 0.999
            else:
                np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
                np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
                assert one.names == other.names and (one.masks == other.masks).mean() > 0.999


def test_lists_keep_their_order(segmentor):
    assert segmentor([]) == []
    (found,) = segmentor([image(20, 30)])
    assert found.size == (20, 30)
    sizes = [(33, 40), (20, 31), (33, 40), (7, 90)]
    assert [each.size for each in segmentor([image(*size) for size in sizes])] == sizes


@pytest.mark.parametrize('size', [(1, 1), (1, 50), (3, 2), (131, 17)])
def test_any_size(segmentor, detector, size):
    for predictor in (segmentor, detector):
        assert predictor(image(*size)).size == size


def test_paths_arrays_and_pillow_images_are_the_same(segmentor, tmp_path):
    path = tmp_path / 'image.png'
    Image.fromarray(image()).save(path)
    by_path, by_array, by_pillow = segmentor([path, image(), Image.open(path)])
    np.testing.assert_array_equal(by_path.labels, by_array.labels)
    np.testing.assert_array_equal(by_path.labels, by_pillow.labels)
    assert by_path.path == by_pillow.path == str(path) and by_array.path is None
    swapped = segmentor(np.ascontiguousarray(image()[..., ::-1]))
    assert (swapped.labels != by_array.labels).any()  # the order of the channels counts


def test_results_have_the_size_of_the_image_where_the_pipeline_resizes(weights):
    cfg = config(SEGMENT)
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=(96, 64), keep_ratio=True))
    predictor = densevit.Predictor(cfg, weights[SEGMENT], device='cpu')
    found = predictor([image(200, 301), image(64, 96)])
    assert [each.labels.shape for each in found] == [(200, 301), (64, 96)]
    assert found[0].probabilities.shape[1:] == (200, 301)
    with pytest.raises(UserError, match='cannot take .* of 5000 x 1 pixels'):
        predictor(np.zeros((1, 5000, 3), np.uint8))


# ------------------------------------------------------------------------------------------------ in windows
def test_windows_of_a_segmentor_are_those_of_slide_mode(weights):
    cfg = config(SEGMENT)
    cfg.model.test_cfg = dict(mode='slide', crop_size=(40, 56), stride=(24, 30))
    slid = densevit.Predictor(cfg, weights[SEGMENT], device='cpu')
    for batch in (1, 3):
        windows = densevit.Predictor(
            config(SEGMENT), weights[SEGMENT], device='cpu', window=(40, 56), stride=(24, 30), batch_size=batch
        )
        for size in ((131, 97), (40, 157), (41, 57), (200, 30)):
            expected, found = slid(image(*size)).labels, windows(image(*size)).labels
            assert len(np.unique(expected)) > 1
            assert (found == expected).mean() > 0.999
    with pytest.raises(UserError, match='no probabilities'):
        _ = windows(image(131, 97)).probabilities
    assert windows(image(40, 56)).probabilities.shape[1:] == (40, 56)  # no larger than a window


def test_a_network_with_one_channel(tmp_path):
    cfg = config(SEGMENT)
    cfg.model.decode_head.update(num_classes=2, out_channels=1, threshold=0.6)
    cfg.model.decode_head.loss_decode.use_sigmoid = True
    cfg.test_dataloader.dataset.metainfo = dict(classes=('void', 'thing'))
    path = checkpoint(cfg, tmp_path / 'one.pth')
    whole, windows = (
        densevit.Predictor(cfg, path, device='cpu', window=window)(image(64, 96)) for window in (None, (64, 60))
    )
    assert whole.classes == ('void', 'thing') and set(np.unique(whole.labels)) == {0, 1}
    np.testing.assert_array_equal(whole.labels, whole.probabilities[1] > 0.6)
    assert windows.labels.dtype == np.uint8 and set(np.unique(windows.labels)) == {0, 1}


def test_windows_take_little_memory(weights):
    """Of a tall image: as Linux counts it, above what a low one of the same width has taken already."""
    reset, status = Path('/proc/self/clear_refs'), Path('/proc/self/status')
    if not os.access(reset, os.W_OK):
        pytest.skip('needs Linux, and a process that may reset its own peak of memory')

    def kilobytes(name: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))

    height, width = HEIGHT, 400
    predictor = densevit.Predictor(config(SEGMENT), weights[SEGMENT], device='cpu', window=(128, 200))
    predictor(image(300, width))
    tall = np.repeat(image(height // 50, width), 50, axis=0)
    reset.write_text('5')
    before = kilobytes('VmRSS')
    found = predictor(tall)
    used = 1024 * (kilobytes('VmHWM') - before) - found.labels.nbytes
    assert found.size == tall.shape[:2] and len(np.unique(found.labels)) > 1
    logits = len(CLASSES) * tall.shape[0] * width * 4  # of the whole image: 83 MB
    assert used < logits / 3


def test_windows_of_a_detector(weights):
    whole = densevit.Predictor(config(DETECT), weights[DETECT], device='cpu', score=0.2)
    windows = densevit.Predictor(config(DETECT), weights[DETECT], device='cpu', score=0.2, window=(64, 96))
    assert windows.stride == (48, 72)
    np.testing.assert_array_equal(windows(image(64, 96)).boxes, whole(image(64, 96)).boxes)
    found = windows(image(150, 203))
    assert len(found) > 3 and found.masks.shape[1:] == (150, 203)
    assert found.boxes[:, 0].max() > 96 and found.boxes[:, 1].max() > 64
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize(
    'arguments, says',
    [
        (dict(window=(0, 5)), r'window=\(0, 5\)'),
        (dict(window=(64, 64), stride=(65, 3)), r'stride=\(65, 3\) would leave gaps'),
        (dict(stride=(3, 3)), r'stride=\(3, 3\) is of windows'),
        (dict(window=0), 'window=0: give height and width'),
        (dict(window=64.5), 'window=64.5: give'),
        (dict(window=(64,)), r'window=\(64,\): give'),
        (dict(window='64'), "window='64': give"),
        (dict(window=64, stride=65), r'stride=\(65, 65\) would leave gaps'),
        (dict(window=64, stride=-1), 'stride=-1: give'),
        (dict(score=2), 'score=2: give a confidence from 0 to 1'),
        (dict(score=-0.1), 'score=-0.1'),
        (dict(score=float('nan')), 'score=nan'),
        (dict(batch_size=0), 'batch_size=0'),
        (dict(device='gpu9'), "device='gpu9'"),
    ],
)
def test_wrong_arguments(weights, arguments, says):
    with pytest.raises(UserError, match=says):
        densevit.Predictor(config(SEGMENT), weights[SEGMENT], **{'device': 'cpu', **arguments})


def test_one_number_is_a_square(weights):
    predictor = densevit.Predictor(config(SEGMENT), weights[SEGMENT], device='cpu', window=np.int64(64), stride=50)
    assert (predictor.window, predictor.stride) == ((64, 64), (50, 50))


# --------------------------------------------------------------------------------------- what the config says
@pytest.mark.parametrize('checkpoint', [None, 'none'])
def test_random_weights_are_no_secret(checkpoint):
    with pytest.warns(UserWarning, match='no checkpoint was given'):
        found = densevit.Predictor(config(SEGMENT), checkpoint, device='cpu')(image())
    assert found.classes == CLASSES


def test_the_name_of_a_config():
    with pytest.raises(UserError, match='did you mean'):
        densevit.Predictor('upernet_patchconvnet-tiny_scene', None)
    with pytest.warns(UserWarning, match='no checkpoint'):
        assert densevit.Predictor('upernet_patchconvnet-tiny_camvid', None, device='cpu').classes[0] == 'Sky'


@pytest.mark.parametrize('key', ['new', 'old'])
def test_the_classes_of_the_checkpoint_come_first(tmp_path, key):
    names, colors = tuple(f'thing {index}' for index in range(13)), [[index, 0, 0] for index in range(13)]
    new, old = dict(dataset_meta=dict(classes=names, palette=colors)), dict(CLASSES=names, PALETTE=colors)
    path = checkpoint(config(SEGMENT), tmp_path / 'x.pth', **(new if key == 'new' else old))
    predictor = densevit.Predictor(config(SEGMENT), path, device='cpu')
    assert predictor.classes == names and predictor.palette[2] == (2, 0, 0)
    assert predictor.reduce_zero_label is True


def test_classes_of_another_model(tmp_path, weights):
    # names of another data set stand in the checkpoint, as after a start from other weights
    other = checkpoint(config(SEGMENT), tmp_path / 'x.pth', dataset_meta=dict(classes=('a', 'b')))
    assert densevit.Predictor(config(SEGMENT), other, device='cpu').classes == CLASSES
    cfg = config(SEGMENT)
    cfg.test_dataloader.dataset.metainfo = dict(classes=('a', 'b', 'c', 'd'))
    with pytest.raises(UserError, match="13 classes, but the config's data set names 4 \\('a', 'b', 'c', ...\\)"):
        densevit.Predictor(cfg, weights[SEGMENT], device='cpu')


def test_a_checkpoint_without_the_head_is_no_secret(tmp_path, weights):
    state = torch.load(weights[SEGMENT])['state_dict']
    torch.save({k: v for k, v in state.items() if k.startswith('backbone.')}, tmp_path / 'backbone.pth')
    with pytest.warns(UserWarning, match='tensors are random'):
        densevit.Predictor(config(SEGMENT), tmp_path / 'backbone.pth', device='cpu')


def test_configs_without_a_pipeline(weights):
    cfg = config(SEGMENT)
    cfg.test_dataloader.dataset.pipeline[0] = dict(type='LoadImageFromFile', color_type='grayscale')
    with pytest.raises(UserError, match="begins with .*'grayscale'"):
        densevit.Predictor(cfg, weights[SEGMENT], device='cpu')
    cfg.test_dataloader = cfg.val_dataloader = None
    with pytest.raises(UserError, match='no test_dataloader'):
        densevit.Predictor(cfg, weights[SEGMENT], device='cpu')


def test_no_global_state_is_left(segmentor, detector):
    from mmengine.registry import DefaultScope

    before = dict(DefaultScope._instance_dict)
    with pytest.warns(UserWarning, match='no checkpoint'):
        densevit.Predictor('mask_rcnn_patchconvnet-tiny_scenes', None, device='cpu')
    assert dict(DefaultScope._instance_dict) == before
    assert isinstance(segmentor(image()), Segmentation) and isinstance(detector(image()), Detection)


def test_masks_of_other_detectors():
    masks = torch.zeros(3, 20, 31, dtype=torch.bool)
    masks[0, 3:9, 5:30] = masks[1, :, 0] = True
    objects = (np.zeros((3, 4)), np.ones(3), np.zeros(3, int), encode_masks(masks))
    found = Detection(image(20, 31), None, THINGS, ((1, 2, 3),) * len(THINGS), *objects)
    np.testing.assert_array_equal(found.masks, masks)


def test_parts_that_do_not_fit_are_told_as_in_training():
    cfg = config(SEGMENT)
    cfg.model.decode_head.no_such_argument = 7
    with pytest.raises(UserError, match="model: it cannot be built as the config says: .*'no_such_argument'"):
        densevit.Predictor(cfg, None, device='cpu')
    cfg = load_config('upernet_swin_ade20k', {'model.decode_head.in_channels': [96, 192, 384, 1024]})
    with pytest.raises(UserError, match=r'decode_head.*in_channels=.*384, 768\] channels; write these'):
        densevit.Predictor(cfg, None, device='cpu')
