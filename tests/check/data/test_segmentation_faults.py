"""Faults planted into a sound data set for segmentation: each is named, with its files and its cure."""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from struct import pack

import numpy as np
import pytest
from PIL import Image

from tests.check.data.planted import HEIGHT, WIDTH, Planted, noise, segmentation, values

pytest.importorskip('mmseg')

TRAIN = ('a', 'b', 'c')
FAULTS: dict[str, tuple[Callable[[Planted], None], str, str, str, str]] = {}


def fault(kind: str, file: str = '', cure: str = '', level: str = 'error') -> Callable[[Callable], Callable]:
    """A function that plants a fault of this kind, which concerns a file and is named with this cure."""

    def add(plant: Callable[[Planted], None]) -> Callable[[Planted], None]:
        FAULTS[plant.__name__] = (plant, kind, file, cure, level)
        return plant

    return add


def relabel(planted: Planted, *which: int, names: tuple[str, ...] = TRAIN, **options) -> None:
    for name in names:
        planted.save(f'labels/train/{name}.png', values(*which, **options))


# ------------------------------------------------------------------------------------------------ layout
@fault('data-root-missing', cure=r'such a folder is .*data_root=PATH')
def root_elsewhere(planted: Planted) -> None:
    planted.split().data_root = str(planted.root / 'wrong')


@fault('data-root-missing', cure=r'"python tools/prepare_data.py ade20k"')
def known_data_set_missing(planted: Planted) -> None:
    prefix = dict(img_path='images/training', seg_map_path='annotations/training')
    planted.split().update(type='ADE20KDataset', data_root='no_data/ade/ADEChallengeData2016', data_prefix=prefix)


@fault('data-folder-missing', cure=r"'labels/train' is not in the data root .* there is: annotations, images")
def folder_renamed(planted: Planted) -> None:
    (planted.root / 'labels').rename(planted.root / 'annotations')


@fault('data-folder-missing', cure=r"did you mean 'train'\?")
def folder_misspelt(planted: Planted) -> None:
    planted.split().data_prefix.img_path = 'images/Train'


@fault('wrong-archive', cure='full ADE20K download.*ADEChallengeData2016')
def full_ade20k(planted: Planted) -> None:
    (planted.root / 'index_ade20k.pkl').write_bytes(b'')
    planted.split().data_prefix.img_path = 'images/training'


@fault('wrong-archive', 'labels/train/a_seg.png', 'ADEChallengeData2016')
def masks_of_the_full_ade20k(planted: Planted) -> None:
    planted.split().seg_map_suffix = '_seg.png'
    for name in TRAIN:
        planted.save(f'labels/train/{name}_seg.png', noise(name, HEIGHT, WIDTH, 3))


@fault('no-image-left', cure=r"img_suffix='.tif'; there is: .jpg \(3\)")
def wrong_image_suffix(planted: Planted) -> None:
    planted.split().img_suffix = '.tif'


@fault('no-image-left', cure=r"img_suffix='.jpg'; there is: no file")
def validation_is_empty(planted: Planted) -> None:
    shutil.rmtree(planted.root / 'images/val')
    (planted.root / 'images/val').mkdir()


@fault('classes-not-a-list', cure=r"did you mean classes=\('tower',\)")
def classes_as_a_string(planted: Planted) -> None:
    planted.split().metainfo = dict(classes='tower')


@fault('class-count', cure=r'num_classes=19; set num_classes=3')
def heads_count_others(planted: Planted) -> None:
    planted.cfg.model.decode_head.num_classes = 19


# ------------------------------------------------------------------------------------------------- pairs
@fault('label-missing', 'labels/train/b.png', '1 of 3 images have no label')
def image_without_label(planted: Planted) -> None:
    (planted.root / 'labels/train/b.png').unlink()


@fault('label-missing', 'images/train/a_mask_mask.png', 'read as images too: keep the two in different folders')
def labels_among_the_images(planted: Planted) -> None:
    for name in TRAIN:
        (planted.root / f'images/train/{name}.jpg').rename(planted.root / f'images/train/{name}.png')
        shutil.copy(planted.root / f'labels/train/{name}.png', planted.root / f'images/train/{name}_mask.png')
    prefix = dict(img_path='images/train', seg_map_path='images/train')
    planted.split().update(data_prefix=prefix, img_suffix='.png', seg_map_suffix='_mask.png')


@fault('dataset-broken', cure='cannot list its images')
def list_is_a_picture(planted: Planted) -> None:
    planted.split().ann_file = 'images/train/a.jpg'


@fault('label-missing', 'labels/train/a.png', r"there is 'a_mask.png': set seg_map_suffix='_mask.png'")
def labels_of_another_suffix(planted: Planted) -> None:
    for name in TRAIN:
        (planted.root / f'labels/train/{name}.png').rename(planted.root / f'labels/train/{name}_mask.png')


@fault('image-of-label-missing', 'labels/train/b.png', 'were images lost', 'warning')
def label_without_image(planted: Planted) -> None:
    (planted.root / 'images/train/b.jpg').unlink()


@fault('image-not-read', 'images/train/c.JPG', r"img_suffix='.jpg'.*rename", 'warning')
def suffix_in_capitals(planted: Planted) -> None:
    (planted.root / 'images/train/c.jpg').rename(planted.root / 'images/train/c.JPG')


@fault('image-missing', 'images/train/z.jpg', 'check data_root and data_prefix')
def list_names_an_absent_image(planted: Planted) -> None:
    (planted.root / 'list.txt').write_text('a\nb\nz\n')
    planted.split().ann_file = 'list.txt'


@fault('image-listed-twice', 'images/train/a.jpg', 'remove the repetitions', 'warning')
def list_names_an_image_twice(planted: Planted) -> None:
    (planted.root / 'list.txt').write_text('a\nb\na\n')
    planted.split().ann_file = 'list.txt'


@fault('size-differs', 'labels/train/b.png', 'is 56x40 pixels but its image is 28x20; .*resized')
def image_resized(planted: Planted) -> None:
    planted.save('images/train/b.jpg', noise('b', HEIGHT // 2, WIDTH // 2, 3))


@fault('size-differs', 'labels/train/b.png', 'turn one of them')
def label_turned(planted: Planted) -> None:
    planted.save('labels/train/b.png', values(0, 1, 2, size=(WIDTH, HEIGHT)))


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@fault('exif-rotated', 'images/train/b.jpg', 'turn the label, or write the image upright')
def image_turned_by_exif(planted: Planted) -> None:
    planted.save('images/train/b.jpg', noise('b', HEIGHT, WIDTH, 3), exif=_exif(6))


@fault('exif-rotated', 'images/train/b.jpg', 'tools/browse.py', 'warning')
def image_upside_down_by_exif(planted: Planted) -> None:
    planted.save('images/train/b.jpg', noise('b', HEIGHT, WIDTH, 3), exif=_exif(3))


# ------------------------------------------------------------------------------------------------- files
def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


@fault('image-unreadable', 'images/train/b.jpg', 'truncated.*copy it again or take it out')
def image_cut_short(planted: Planted) -> None:
    _cut(planted.root / 'images/train/b.jpg')


@fault('image-unreadable', 'images/train/b.jpg', 'the file is empty')
def image_without_content(planted: Planted) -> None:
    (planted.root / 'images/train/b.jpg').write_bytes(b'')


@fault('image-unreadable', 'images/train/b.jpg', 'cannot identify')
def web_page_instead_of_an_image(planted: Planted) -> None:
    (planted.root / 'images/train/b.jpg').write_text('<html>404</html>' * 20)


@fault('label-unreadable', 'labels/train/b.png', 'copy it again')
def label_cut_short(planted: Planted) -> None:
    planted.save('labels/train/b.png', noise('b', HEIGHT, WIDTH) % 3)
    _cut(planted.root / 'labels/train/b.png')


@fault('label-unreadable', 'labels/train/b.png', 'the file is empty')
def label_without_content(planted: Planted) -> None:
    (planted.root / 'labels/train/b.png').write_bytes(b'')


def _bomb(file: Path, channels: int) -> None:
    """A PNG whose header says 30,000 x 30,000; nobody may find out that its pixels are missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return pack('>I', len(data)) + kind + data + pack('>I', zlib.crc32(kind + data))

    header = pack('>IIBBBBB', 30000, 30000, 8, 2 if channels == 3 else 0, 0, 0, 0)
    content = chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')
    file.write_bytes(b'\x89PNG\r\n\x1a\n' + content)


@fault('image-too-large', 'images/train/b.jpg', '30000x30000 pixels.*cut it into tiles')
def image_bomb(planted: Planted) -> None:
    _bomb(planted.root / 'images/train/b.jpg', 3)


@fault('label-too-large', 'labels/train/b.png', 'cut image and label into tiles')
def label_bomb(planted: Planted) -> None:
    _bomb(planted.root / 'labels/train/b.png', 1)


# ---------------------------------------------------------------------------------------------- channels
@fault('image-channels', 'images/train/b.jpg', 'not RGB but L', 'note')
def grey_image(planted: Planted) -> None:
    planted.save('images/train/b.jpg', noise('b', HEIGHT, WIDTH))


@fault('image-channels', 'images/train/b.jpg', 'transparency dropped', 'note')
def image_with_alpha(planted: Planted) -> None:
    planted.save('images/train/b.jpg', noise('b', HEIGHT, WIDTH, 4), format='PNG')


@fault('image-channels', 'images/train/b.jpg', 'not RGB but CMYK', 'note')
def image_for_printing(planted: Planted) -> None:
    Image.fromarray(noise('b', HEIGHT, WIDTH, 4), 'CMYK').save(planted.root / 'images/train/b.jpg')


@fault('image-channels', 'images/train/b.jpg', r"1 of 3 images .* 3 channels.*color_type='unchanged'.*'color'")
def grey_image_left_unchanged(planted: Planted) -> None:
    planted.save('images/train/b.jpg', noise('b', HEIGHT, WIDTH))
    planted.split().pipeline[0].color_type = 'unchanged'


def _tiff(planted: Planted, channels: int) -> None:
    """A TIFF as satellites make it: 16 bits, written without a library that not everybody has."""
    pixels = np.zeros((HEIGHT, WIDTH, channels), '<u2').tobytes()
    tags = [(256, 3, 1, WIDTH), (257, 3, 1, HEIGHT), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, channels)]
    tags += [(278, 3, 1, HEIGHT), (279, 4, 1, len(pixels))]
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags += [(258, 3, channels, start), (273, 4, 1, start + 2 * channels)]
    entries = b''.join(pack('<HHII', *tag) for tag in sorted(tags))
    content = b'II*\0' + pack('<I', 8) + pack('<H', len(tags)) + entries + pack('<I', 0)
    content += pack('<H', 16) * channels + pixels
    (planted.root / 'images/train/b.jpg').write_bytes(content)


@fault('image-channels', 'images/train/b.jpg', '5 channels of 16 bits.*in_channels of the backbone.*to 5')
def five_channels(planted: Planted) -> None:
    _tiff(planted, 5)


@fault('image-channels', 'images/train/b.jpg', '8 channels of 16 bits')
def eight_channels(planted: Planted) -> None:
    _tiff(planted, 8)


@fault('image-16-bit', 'images/train/b.jpg', '12-bit data almost black.*write 8-bit images', 'warning')
def image_with_16_bits(planted: Planted) -> None:
    planted.save('images/train/b.jpg', values(0, 4000, dtype=np.uint16), format='PNG')


@fault('image-16-bit', 'images/train/b.jpg', '16 bits per channel', 'warning')
def colours_with_16_bits(planted: Planted) -> None:
    _tiff(planted, 3)


@fault('image-16-bit', 'images/train/b.jpg', 'mean and std .* are those of 8-bit images', 'warning')
def image_with_16_bits_left_unchanged(planted: Planted) -> None:
    planted.save('images/train/b.jpg', values(0, 4000, dtype=np.uint16), format='PNG')
    planted.split().pipeline[0].color_type = 'unchanged'


@fault('image-pages', 'images/train/b.jpg', '3 pages, of which the first alone is read', 'warning')
def channels_as_pages(planted: Planted) -> None:
    pages = [Image.fromarray(noise(str(number), HEIGHT, WIDTH)) for number in range(3)]
    pages[0].save(planted.root / 'images/train/b.jpg', format='TIFF', save_all=True, append_images=pages[1:])


@fault('not-checked', cure='loaded by LoadSingleRSImageFromFile', level='note')
def images_loaded_by_another_step(planted: Planted) -> None:
    planted.split().pipeline[0].type = 'LoadSingleRSImageFromFile'


# ------------------------------------------------------------------------------------------------ labels
@fault('mask-rgb', 'labels/train/b.png', r'2 of its 2 colours are in the palette .*\((sky, car|car, sky)\)')
def label_of_the_palettes_colours(planted: Planted) -> None:
    colours = np.array([[0, 0, 200], [200, 0, 0]], np.uint8)
    planted.save('labels/train/b.png', colours[values(0, 1)])


@fault('mask-rgb', 'labels/train/b.png', 'convert colours to indices')
def label_of_unknown_colours(planted: Planted) -> None:
    planted.save('labels/train/b.png', noise('x', HEIGHT, WIDTH, 3))


@fault('mask-rgb', 'labels/train/b.png', 'say nothing more, so keep the first')
def label_of_three_equal_channels(planted: Planted) -> None:
    planted.save('labels/train/b.png', np.stack([values(0, 1, 2)] * 3, axis=-1))


@fault('mask-palette', 'labels/train/a.png', 'palettes .* differ.*the same for all', 'warning')
def labels_quantized_file_by_file(planted: Planted) -> None:
    for index, name in enumerate(TRAIN):
        image = Image.fromarray(values(0, 1, 2))
        image.putpalette([50 * index, 0, 0, 0, 50 * index, 0, 0, 0, 99])
        image.save(planted.root / f'labels/train/{name}.png')


@fault('mask-palette', 'labels/train/b.png', 'leave imdecode_backend of LoadAnnotations out')
def palette_loaded_as_colours(planted: Planted) -> None:
    image = Image.fromarray(values(0, 1, 2))
    image.putpalette([0, 0, 200, 0, 128, 0, 200, 0, 0])
    image.save(planted.root / 'labels/train/b.png')
    planted.split().pipeline[1].imdecode_backend = 'cv2'


@fault('mask-16-bit', 'labels/train/b.png', r'301\), .*301 becomes 45; write class numbers as an 8-bit')
def label_with_large_ids(planted: Planted) -> None:
    planted.save('labels/train/b.png', values(0, 1, 301, dtype=np.uint16))


@fault('mask-16-bit', 'labels/train/b.png', '65535 becomes 255, void', 'note')
def label_with_a_void_of_16_bits(planted: Planted) -> None:
    planted.save('labels/train/b.png', values(0, 1, 65535, dtype=np.uint16))


@fault('label-out-of-range', 'labels/train/b.png', 'values found: 0 to 2, 255, 1000')
def panoptic_ids(planted: Planted) -> None:
    planted.save('labels/train/b.png', values(0, 1, 1000, dtype=np.int32), format='TIFF')


@fault('mask-float', 'labels/train/b.png', 'write class numbers as an 8-bit PNG')
def label_of_fractions(planted: Planted) -> None:
    planted.save('labels/train/b.png', values(0, 0.5, 1, dtype=np.float32), format='TIFF')


@fault('mask-lossy', 'labels/train/b.png', 'write label maps as PNG', 'warning')
def label_compressed_with_losses(planted: Planted) -> None:
    planted.save('labels/train/b.png', values(0, 1), format='JPEG', quality=100)


# ------------------------------------------------------------------------------------------------ values
@fault('label-out-of-range', 'labels/train/b.png', 'b.png.* the value 7, .* 3 classes.* num_classes 8 classes')
def value_too_large(planted: Planted) -> None:
    relabel(planted, 0, 1, 2, 7, names=('b',))


@fault('label-out-of-range', 'labels/train/c.png', r'did you forget reduce_zero_label=True .*\(0, .*num_classes=4')
def reduce_zero_label_forgotten(planted: Planted) -> None:
    relabel(planted, 0, 0, 1, 2, 3)


@fault('label-out-of-range', 'labels/train/c.png', 'labels begin at 1, so set reduce_zero_label=True')
def labels_begin_at_one(planted: Planted) -> None:
    relabel(planted, 1, 2, 3, 255)


@fault(
    'label-out-of-range',
    'labels/train/c.png',
    'the values 0, 85, 170 look like .*: divide them by 85',
)
def labels_stretched_for_viewing(planted: Planted) -> None:
    relabel(planted, 0, 85, 170)


@fault('label-out-of-range', 'labels/train/a_labelIds.png', '_labelTrainIds.png')
def raw_ids_of_cityscapes(planted: Planted) -> None:
    for name in TRAIN:
        planted.save(f'labels/train/{name}_labelIds.png', values(0, 7, 11, 26))
    planted.split().seg_map_suffix = '_labelIds.png'


@fault('label-out-of-range', 'labels/train/b.png', 'or write 255 into such pixels where 254 stands for void')
def void_is_254(planted: Planted) -> None:
    relabel(planted, 0, 1, 2, 254)


@fault('label-out-of-range', 'labels/train/b.png', 'slip of the annotators')
def one_stray_pixel(planted: Planted) -> None:
    pixels = values(0, 1, 2)
    pixels[3, 5] = 9
    planted.save('labels/train/b.png', pixels)


@fault('label-out-of-range', 'labels/train/b.png', 'give dataset and num_classes 4 classes')
def value_too_large_after_reduction(planted: Planted) -> None:
    for split in ('train', 'val'):
        planted.split(split).reduce_zero_label = True
    relabel(planted, 0, 1, 2, 3, names=('a', 'c'))
    relabel(planted, 0, 1, 2, 4, names=('b',))


@fault('label-out-of-range', 'labels/train/b.png', 'void 9.*leave ignore_index of the heads out')
def void_is_another_number(planted: Planted) -> None:
    planted.cfg.model.decode_head.ignore_index = 9


@fault('reduce-zero-label', cure=r"20% of the pixels.*last class, 'car'.*did you mean reduce_zero_label=False")
def reduce_zero_label_needless(planted: Planted) -> None:
    planted.split().reduce_zero_label = True


@fault('reduce-zero-label', cure='give both the same')
def reduce_zero_label_of_the_loader_alone(planted: Planted) -> None:
    planted.split().pipeline[1].reduce_zero_label = True


@fault('mask-binary-255', cure='write 0 and 1 for two classes')
def binary_masks(planted: Planted) -> None:
    relabel(planted, 0, 255)


@fault('all-ignored', 'labels/train/a.png', 'did you mean reduce_zero_label=False')
def everything_is_void(planted: Planted) -> None:
    relabel(planted, 0, 255)
    planted.split().reduce_zero_label = True


@fault('one-class', cure="all labelled pixels are 'sky', one of 3")
def one_class_only(planted: Planted) -> None:
    relabel(planted, 0)


@fault('class-never-seen', cure=r'1 of 3 classes never occur \(car\).*num_classes=2 is enough', level='note')
def class_never_seen(planted: Planted) -> None:
    relabel(planted, 0, 1)


@fault('class-never-seen', cure=r'\(sky\).*where that is the first class, set reduce_zero_label=True', level='note')
def first_class_never_seen(planted: Planted) -> None:
    relabel(planted, 1, 2)


@fault('label-all-ignored', 'labels/train/b.png', 'nothing is learnt', 'warning')
def image_that_is_all_void(planted: Planted) -> None:
    relabel(planted, 255, names=('b',))


# ------------------------------------------------------------------------------------------------ splits
@fault('leakage', 'images/val/d.jpg', 'keep them apart', 'warning')
def training_image_in_validation(planted: Planted) -> None:
    shutil.copy(planted.root / 'images/train/a.jpg', planted.root / 'images/val/d.jpg')


@fault('leakage', cure='read the same images: the scores', level='warning')
def validation_is_training(planted: Planted) -> None:
    planted.cfg.val_dataloader = planted.cfg.train_dataloader


@fault('same-names', 'images/val/a.jpg', 'other content', 'note')
def names_of_training_in_validation(planted: Planted) -> None:
    for kind, suffix in (('images', 'jpg'), ('labels', 'png')):
        (planted.root / f'{kind}/val/d.{suffix}').rename(planted.root / f'{kind}/val/a.{suffix}')


@fault('image-duplicate', 'images/train/b.jpg', 'remove the copies', 'warning')
def same_image_twice(planted: Planted) -> None:
    shutil.copy(planted.root / 'images/train/a.jpg', planted.root / 'images/train/b.jpg')


@fault('image-small', 'images/train/a.jpg', '56x40 pixels.*crop of 512x256.*smaller crop_size', 'warning')
def images_smaller_than_the_crop(planted: Planted) -> None:
    planted.split().pipeline.append(dict(type='RandomCrop', crop_size=(256, 512)))


def test_sound_data_gives_nothing(tmp_path):
    planted = segmentation(tmp_path)
    assert planted.findings() == []
    for each in (*tmp_path.glob('labels/*/*.png'),):  # void and first class as ADE20K has them
        Image.fromarray((np.asarray(Image.open(each)) + 1).astype(np.uint8)).save(each)
    for split in ('train', 'val'):
        planted.split(split).reduce_zero_label = True
    assert planted.findings() == []


def test_format_that_only_opencv_reads(tmp_path):
    cv2 = pytest.importorskip('cv2')
    planted = segmentation(tmp_path)
    assert cv2.imwrite(str(tmp_path / 'a.hdr'), np.ones((HEIGHT, WIDTH, 3), np.float32))
    (tmp_path / 'a.hdr').replace(tmp_path / 'images/train/a.jpg')
    assert planted.findings() == []
    shutil.copy(tmp_path / 'images/train/a.jpg', tmp_path / 'labels/train/a.png')  # labels are read by Pillow
    assert [each.kind for each in planted.findings()] == ['label-unreadable']


@pytest.mark.parametrize('name', FAULTS)
def test_fault(tmp_path, name):
    plant, kind, file, cure, level = FAULTS[name]
    planted = segmentation(tmp_path)
    plant(planted)
    found = [each for each in planted.findings() if each.kind == kind]
    assert found and found[0].level == level, planted.findings()
    assert re.search(cure, found[0].message), found[0].message
    assert not file or str(tmp_path / file) in found[0].files
