"""What is shown is what the model gets: the same pixels, labels in their place, and the truth about every step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit.config.reading import load_config
from densevit.data.samples import FedSamples
from densevit.data.scenes import generate
from densevit.data.tracing import Placement
from densevit.errors import UserError
from tests.scope import scope_restored

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

SEMANTIC, INSTANCE = 'upernet_patchconvnet-tiny_scenes', 'mask_rcnn_patchconvnet-tiny_scenes'
HEIGHT, WIDTH = 97, 131
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True)]
PACK = dict(type='PackSegInputs')


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('data') / 'scenes'
    generate(folder, num_train=4, num_val=2, size=(HEIGHT, WIDTH), seed=0)
    return folder


def semantic(root: Path, split: str = 'train', pipeline: list[dict] | None = None, **options) -> FedSamples:
    """The samples of a config whose data set lies in ``root``."""
    cfg = load_config(SEMANTIC, {'data_root': str(root)} | options)
    if pipeline is not None:
        cfg[f'{split}_dataloader'].dataset.pipeline = pipeline
    return FedSamples(cfg, split)


def instance(root: Path, split: str = 'train', pipeline: list[dict] | None = None) -> FedSamples:
    cfg = load_config(INSTANCE, {'data_root': str(root)})
    if pipeline is not None:
        cfg[f'{split}_dataloader'].dataset.pipeline = pipeline
    return FedSamples(cfg, split)


@pytest.fixture
def places(tmp_path) -> Path:
    """Images whose red and green say where a pixel lies, and whose label is the class 1 in a rectangle, else 0."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    image = np.stack([columns, rows, np.full_like(rows, 77)], -1).astype(np.uint8)
    label = np.ones((HEIGHT, WIDTH), np.uint8)
    label[30:60, 40:100] = 2  # reduce_zero_label: class 1
    for kind, array in (('images', image), ('annotations', label)):
        (tmp_path / kind / 'training').mkdir(parents=True)
        for name in 'ab':
            Image.fromarray(array).save(tmp_path / kind / 'training' / f'{name}.png')
    return tmp_path


# ------------------------------------------------------------------------------------------- pixels and places
def test_the_image_is_the_one_on_the_disk(scenes):
    """Nothing is lost by normalizing and back: the pipeline without augmentation gives the file, padded."""
    fed = semantic(scenes / 'ade', pipeline=[*LOAD, PACK])
    (sample,) = fed.samples([1], 1, 0)
    file = np.asarray(Image.open(sample.path).convert('RGB'))
    (view,) = sample.fed
    assert np.array_equal(sample.original.image, file)
    assert view.image.shape == (128, 160, 3) and view.size == (HEIGHT, WIDTH)
    assert np.array_equal(view.image[:HEIGHT, :WIDTH], file)
    assert np.array_equal(view.labels[:HEIGHT, :WIDTH], sample.original.labels)
    assert (view.labels[HEIGHT:] == 255).all()
    assert (fed.channels, len(fed.classes)) == ('RGB', 13)
    below, right = 128 - HEIGHT, 160 - WIDTH
    assert view.steps == (f'data preprocessor: padded by {below} below and {right} to the right to 128 x 160',)
    assert sample.warnings == ()


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
@pytest.mark.parametrize('resized', [False, True])
def test_placement(places, direction, resized):
    """The place of every pixel in the original, through resize, crop and flip, is where its colours say."""
    steps = [dict(type='RandomCrop', crop_size=(41, 67)), dict(type='RandomFlip', prob=1.0, direction=direction)]
    if resized:
        steps.insert(0, dict(type='Resize', scale=(2 * WIDTH, 2 * HEIGHT), keep_ratio=True))
    (sample,) = semantic(places, pipeline=[*LOAD, *steps, PACK]).samples([0], 4, 3)
    found = set()
    for view in sample.fed:
        assert view.size == (41, 67)
        place = view.placement
        rows, columns = np.indices(view.size)
        expected = np.stack(
            [place.left + (columns + 0.5) * place.dx - 0.5, place.top + (rows + 0.5) * place.dy - 0.5], -1
        )
        assert np.abs(view.image[:41, :67, :2] - expected).max() <= (1 if resized else 1e-9)
        x1, y1, x2, y2 = place.region(*view.size)
        assert (x2 - x1, y2 - y1) == pytest.approx((33.5, 20.5) if resized else (67, 41))
        assert (
            f'RandomFlip: flipped {dict(horizontal="horizontally", vertical="vertically").get(direction, "both ways")}'
            in view.steps
        )
        found.add((place.left, place.top))
    assert len(found) > 1


def test_an_unknown_transform_has_no_placement(places):
    steps = [dict(type='RandomRotate', prob=1.0, degree=(20, 20)), dict(type='PhotoMetricDistortion')]
    (sample,) = semantic(places, pipeline=[*LOAD, *steps, PACK]).samples([0], 1, 0)
    assert sample.fed[0].placement is None
    assert sample.fed[0].steps[:2] == (
        f'RandomRotate: {HEIGHT} x {WIDTH} to {HEIGHT} x {WIDTH}', 'PhotoMetricDistortion: colours changed',
    )  # fmt: skip


def test_transforms_inside_others_are_watched(places):
    inner = [[dict(type='Resize', scale_factor=2.0, keep_ratio=True)]]
    steps = [dict(type='RandomChoice', transforms=inner), dict(type='RandomFlip', prob=0.0)]
    (sample,) = semantic(places, pipeline=[*LOAD, *steps, PACK]).samples([0], 1, 0)
    assert sample.fed[0].placement == Placement(0.0, 0.0, 0.5, 0.5)
    assert sample.fed[0].steps[:2] == (
        f'Resize: {HEIGHT} x {WIDTH} to {2 * HEIGHT} x {2 * WIDTH}, x 2.00', 'RandomFlip: left as it was',
    )  # fmt: skip


def test_labels_of_validation_lie_on_the_resized_image(places):
    """They are loaded after the resize and stay at the size of the file."""
    steps = [LOAD[0], dict(type='Resize', scale=(2 * WIDTH, 2 * HEIGHT), keep_ratio=True), LOAD[1], PACK]
    options = {
        'val_dataloader.dataset.data_prefix': dict(img_path='images/training', seg_map_path='annotations/training')
    }
    (sample,) = semantic(places, 'val', steps, **options).samples([0], 1, 0)
    (view,) = sample.fed
    assert view.image.shape[:2] == view.labels.shape == (2 * HEIGHT, 2 * WIDTH)
    assert np.array_equal(np.argwhere(view.labels == 1).min(0), [60, 80])
    assert np.array_equal(np.argwhere(view.labels == 1).max(0), [119, 199])
    assert f'labels stay at {HEIGHT} x {WIDTH}, where they are scored' in view.steps


# ----------------------------------------------------------------------------------------------------- objects
def test_objects(scenes):
    """Boxes go around their masks, in the file, flipped, cropped and scaled."""
    fed = instance(scenes / 'coco')
    samples = list(fed.samples([0, 1, 2, 3], 3, 0))
    count = 0
    for view in (view for sample in samples for view in (sample.original, *sample.fed)):
        for each in view.instances:
            assert each.mask.shape == view.image.shape[:2]
            rows, columns = np.nonzero(each.mask)
            around = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            assert np.abs(np.subtract(around, each.box)).max() <= 2
            assert not each.ignored and 0 <= each.label < 8
            count += 1
    assert count > 20
    assert samples[0].fed[0].image.shape[0] % 32 == 0 == samples[0].fed[0].image.shape[1] % 32
    assert view.size == (HEIGHT, WIDTH)


def test_objects_of_validation_lie_on_the_resized_image(scenes):
    labels = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    steps = [LOAD[0], dict(type='Resize', scale_factor=3.0, keep_ratio=True), labels]
    (sample,) = instance(scenes / 'coco', 'val', [*steps, dict(type='PackDetInputs', meta_keys=keys)]).samples(
        [1], 1, 0
    )
    (view,) = sample.fed
    assert len(view.instances) == len(sample.original.instances) > 0
    for small, large in zip(sample.original.instances, view.instances, strict=True):
        assert large.box == pytest.approx(tuple(3 * value for value in small.box))
        assert large.mask.sum() == 9 * small.mask.sum()


def test_crowds_are_ignored_and_a_dropped_image_says_so(scenes, tmp_path):
    content = json.loads((scenes / 'coco/annotations/instances_train2017.json').read_text())
    for annotation in content['annotations']:
        if annotation['image_id'] == content['images'][0]['id']:
            height, width = HEIGHT, WIDTH
            annotation |= dict(iscrowd=1, segmentation=dict(counts=[0, height * width], size=[height, width]))
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'train2017').symlink_to(scenes / 'coco/train2017')
    (tmp_path / 'annotations/instances_train2017.json').write_text(json.dumps(content))
    (sample,) = instance(tmp_path).samples([0], 1, 0)
    assert all(each.ignored for each in sample.fed[0].instances) and sample.fed[0].instances
    assert sample.warnings == ('no object (on the disk, as fed)',)
    labels = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
    tiny = [dict(type='FilterAnnotations', min_gt_bbox_wh=(500, 500)), dict(type='PackDetInputs')]
    (sample,) = instance(scenes / 'coco', 'train', [LOAD[0], labels, *tiny]).samples([1], 1, 0)
    assert 'drops the image' in sample.fed[0].error and sample.original.instances
    assert sample.fed[0].steps == ('FilterAnnotations: dropped the image',)


# -------------------------------------------------------------------------------------------------- randomness
def test_seeds(scenes):
    fed = semantic(scenes / 'ade')
    assert fed.chosen(3, 0) == fed.chosen(3, 0) == sorted(set(fed.chosen(3, 0)))
    assert fed.chosen(99, 5) == [0, 1, 2, 3] and len({tuple(fed.chosen(2, seed)) for seed in range(9)}) > 1
    (alone,) = fed.samples([2], 2, 7)
    *_, among = fed.samples([0, 1, 2], 2, 7)
    (other,) = fed.samples([2], 2, 8)
    for a, b, c in zip(alone.fed, among.fed, other.fed, strict=True):
        assert np.array_equal(a.image, b.image)
        assert not np.array_equal(a.image, c.image)
    assert not np.array_equal(alone.fed[0].image, alone.fed[1].image)


def test_wrapped_data_sets(places):
    cfg = load_config(SEMANTIC, {'data_root': str(places)})
    inner = cfg.train_dataloader.dataset.to_dict()
    repeated = dict(type='RepeatDataset', times=2, dataset=inner)
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner, repeated])
    fed = FedSamples(cfg, 'train')
    assert len(fed) == 6
    names = [Path(sample.path).stem for sample in fed.samples(list(range(6)), 1, 0)]
    assert names == list('ababab')
    assert len(fed.classes) == 13


# ---------------------------------------------------------------------------------------------------- mistakes
def test_warnings_instead_of_a_crash(places):
    images, labels = places / 'images/training', places / 'annotations/training'
    good = (images / 'a.png').read_bytes()
    for name in 'cdefgh':
        (images / f'{name}.png').write_bytes(good)
        Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save(labels / f'{name}.png')
    Image.fromarray(np.full((HEIGHT, WIDTH), 14, np.uint8)).save(labels / 'b.png')
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(labels / 'c.png')
    Image.fromarray(np.ones((HEIGHT - 3, WIDTH), np.uint8)).save(labels / 'd.png')
    Image.fromarray(np.ones((HEIGHT, WIDTH, 3), np.uint8)).save(labels / 'e.png')
    (images / 'f.png').write_bytes(good[: len(good) // 2])
    (labels / 'g.png').unlink()
    Image.fromarray(np.full((HEIGHT, WIDTH), 9, np.uint8)).save(images / 'h.png')  # grey: nothing is wrong
    samples = {Path(each.path).stem: each for each in semantic(places).samples(list(range(8)), 2, 0)}
    assert samples['a'].warnings == samples['h'].warnings == ()
    everywhere = '(on the disk, version 1, version 2)'
    assert samples['b'].warnings == (f'label 13, counted from 0, but there are 13 classes {everywhere}',)
    assert samples['c'].warnings == (f'every pixel is ignored {everywhere}',)
    assert (
        f'the label map is {HEIGHT - 3} x {WIDTH}, but its picture {HEIGHT} x {WIDTH} (on the disk)'
        in samples['d'].warnings
    )
    assert any('label map is' in text and 'x 3' in text for text in samples['e'].warnings)
    for name, path in (('f', images / 'f.png'), ('g', labels / 'g.png')):
        assert any(f'cannot read {str(path)!r}' in text for text in samples[name].warnings), samples[name].warnings
    assert samples['g'].original.image.shape == (HEIGHT, WIDTH, 3) and samples['g'].fed[0].error


def test_no_label(places):
    (sample,) = semantic(places, pipeline=[LOAD[0], PACK]).samples([0], 1, 0)
    assert sample.original.labels is None
    assert sample.warnings == ('no label (on the disk, as fed)',)


def test_what_is_not_there(places, tmp_path):
    with pytest.raises(UserError, match="data root '.*nothing' does not exist"):
        semantic(tmp_path / 'nothing')
    cfg = load_config(SEMANTIC, {'data_root': str(places)})
    cfg.pop('test_dataloader')
    with pytest.raises(UserError, match='no test_dataloader'):
        FedSamples(cfg, 'test')
    cfg.model.pop('data_preprocessor')
    with pytest.raises(UserError, match='no data_preprocessor'):
        FedSamples(cfg, 'train')
