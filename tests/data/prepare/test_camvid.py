"""CamVid of several sources becomes the same: 11 classes, 360 x 480, the split of SegNet."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from densevit.data.prepare import camvid
from densevit.data.prepare.camvid import _CLASSES, route_colours, route_numbers, route_segnet, split_of

from .archive_files import labels, picture, stripes

# By name: SegNet's classes in the order of the config, and what makes them up.
MEMBERS = {
    'Sky': 'Sky', 'Building': 'Archway Bridge Building Tunnel Wall', 'Pole': 'Column_Pole TrafficCone',
    'Road': 'Road LaneMkgsDriv LaneMkgsNonDriv', 'Pavement': 'Sidewalk ParkingBlock RoadShoulder',
    'Tree': 'Tree VegetationMisc', 'SignSymbol': 'SignSymbol Misc_Text TrafficLight', 'Fence': 'Fence',
    'Car': 'Car SUVPickupTruck Truck_Bus Train OtherMoving', 'Pedestrian': 'Pedestrian Child CartLuggagePram Animal',
    'Bicyclist': 'Bicyclist MotorcycleScooter',
}  # fmt: skip


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_classes():
    found = {name: label for name, _, label in _CLASSES}
    expected = {member: index for index, members in enumerate(MEMBERS.values()) for member in members.split()}
    assert found == {**expected, 'Void': 255}
    assert sorted(found, key=str.lower) == [name for name, _, _ in _CLASSES]  # the numbers of codes.txt
    assert len({colour for _, colour, _ in _CLASSES}) == 32


def test_names_of_the_config():
    from densevit.config.reading import load_config

    assert list(load_config('upernet_patchconvnet-tiny_camvid').metainfo['classes']) == list(MEMBERS)


def test_split_of_real_names(shared_data):
    for split in ('training', 'validation'):
        names = [path.stem for path in (shared_data / 'camvid' / 'images' / split).iterdir()]
        assert {split_of(name) for name in names} == {split} and len(names) in (367, 101)


def test_split_counts():
    """The 701 frames of CamVid: SegNet has 367 + 101 + 233."""
    frames = [f'0001TP_{number:06d}' for number in range(6690, 10381, 30)]  # 124
    frames += [f'0006R0_f{number:05d}' for number in range(930, 3931, 30)]  # 101
    frames += [f'Seq05VD_f{number:05d}' for number in range(0, 5101, 30)]  # 171
    frames += [f'0016E5_{number:05d}' for number in range(7959, 8160, 2)]  # 101
    found = [split_of(frame) for frame in frames]
    assert [found.count(split) for split in ('training', 'validation', None)] == [62 + 101, 101, 62 + 171]


@pytest.mark.parametrize('route, name, path', [
    (route_segnet, 'S-master/CamVid/train/0001TP_006690.png', 'images/training/0001TP_006690.jpg'),
    (route_segnet, 'S-master/CamVid/valannot/0016E5_07959.png', 'annotations/validation/0016E5_07959.png'),
    (route_segnet, 'S-master/CamVid/testannot/Seq05VD_f00000.png', None),
    (route_segnet, 'S-master/CamVid/train.txt', None),
    (route_numbers, 'camvid/images/0006R0_f00930.png', 'images/training/0006R0_f00930.jpg'),
    (route_numbers, 'camvid/labels/0016E5_07959_P.png', 'annotations/validation/0016E5_07959.png'),
    (route_numbers, 'camvid/labels/Seq05VD_f00000_P.png', None),
    # Kaggle's own split puts it elsewhere
    (route_colours, 'CamVid/test/0001TP_006690.png', 'images/training/0001TP_006690.jpg'),
    (route_colours, 'CamVid/test_labels/0001TP_006690_L.png', 'annotations/training/0001TP_006690.png'),
    (route_colours, '0016E5_07959_L.png', 'annotations/validation/0016E5_07959.png'),
    (route_colours, '0001TP_009000.png', None),
    (route_colours, '__MACOSX/CamVid/test/0001TP_006690.png', None),
])  # fmt: skip
def test_routes(route, name, path):
    found = route(name)
    assert (found and found[0]) == path


def test_images_are_halved():
    _, convert = route_colours('0001TP_006690.png')
    image = opened(convert(picture((960, 720), 'PNG')))
    assert (image.format, image.mode, image.size) == ('JPEG', 'RGB', (480, 360))
    _, convert = route_segnet('train/0001TP_006690.png')
    assert opened(convert(picture((480, 360), 'PNG', 'RGBA'))).size == (480, 360)


@pytest.mark.parametrize('route, name, values', [
    (route_numbers, 'labels/0001TP_006690_P.png', np.arange(32, dtype=np.uint8)),
    (route_colours, '0001TP_006690_L.png', np.array([colour for _, colour, _ in _CLASSES], np.uint8)),
])  # fmt: skip
def test_32_classes_become_11(route, name, values):
    image = opened(route(name)[1](labels(stripes(values))))
    assert (image.mode, image.size) == ('L', (480, 360))
    expected = np.repeat(np.array([label for _, _, label in _CLASSES]), 15)
    np.testing.assert_array_equal(np.asarray(image), np.broadcast_to(expected, (360, 480)))


def test_void_of_segnet():
    original = np.zeros((360, 480), np.uint8)
    original[10, 20], original[11, 21] = 11, 10
    found = np.asarray(opened(route_segnet('valannot/0016E5_07959.png')[1](labels(original))))
    assert found[10, 20] == 255 and found[11, 21] == 10 and found.sum() == 265


def test_colours_that_are_unknown():
    _, convert = route_colours('0001TP_006690_L.png')
    colours = np.full((720, 960, 3), 128, np.uint8)
    colours[:2] = 1  # a few pixels, as in the originals
    assert np.unique(np.asarray(opened(convert(labels(colours))))).tolist() == [0, 255]
    colours[:100] = 1
    with pytest.raises(ValueError, match='14% of the pixels have colours'):
        convert(labels(colours))


@pytest.mark.parametrize('content, words', [
    (labels(np.full((360, 480), 12, np.uint8)), 'class 12'),
    (picture((480, 360), 'PNG'), '3 axes'),
    (labels(np.zeros((480, 360), np.uint8)), '360 x 480 pixels, but'),
])  # fmt: skip
def test_other_label_maps(content, words):
    with pytest.raises(ValueError, match=words):
        route_segnet('trainannot/0001TP_006690.png')[1](content)


def test_images_of_the_shared_data_are_such(shared_data):
    with Image.open(shared_data / 'camvid' / 'images' / 'training' / '0001TP_006690.jpg') as image:
        assert image.size == camvid._SIZE
