"""Images find their masks by name, and are split into two."""

from __future__ import annotations

from pathlib import Path

import pytest

from densevit.data.own.pairs import find_pairs, split_names
from densevit.errors import UserError


@pytest.fixture
def tree(tmp_path):
    def make(*paths: str) -> Path:
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
        return tmp_path

    return make


def found(images: Path, masks: Path) -> list[tuple[str, str, str, str | None]]:
    return [(pair.name, pair.image.name, pair.mask.name, pair.split) for pair in find_pairs(images, masks).pairs]


@pytest.mark.parametrize('mask', ['{}.png', '{}_L.png', '{}_mask.png', 'gt_{}.tif', '{}_gtFine_labelIds.png'])
def test_names_may_differ_by_one_addition(tree, mask):
    root = tree(
        *(f'i/{name}' for name in ('a.jpg', 'ab.JPG', 'b_1.png')),
        *(f'm/{mask.format(name)}' for name in ('a', 'ab', 'b_1')),
    )
    names = find_pairs(root / 'i', root / 'm').pairs
    assert [(pair.name, pair.mask.name) for pair in names] == [(name, mask.format(name)) for name in ('a', 'ab', 'b_1')]


def test_one_folder(tree):
    root = tree('a.jpg', 'a.png', 'b.jpg', 'b.png')
    assert found(root, root) == [('a', 'a.jpg', 'a.png', None), ('b', 'b.jpg', 'b.png', None)]


@pytest.mark.parametrize('mask', ['{}_mask.png', 'label_{}.png'])
def test_one_folder_with_additions(tree, mask):
    root = tree('a1.png', mask.format('a1'), 'b.png', mask.format('b'))
    assert [pair.mask.name for pair in find_pairs(root, root).pairs] == [mask.format('a1'), mask.format('b')]


def test_folders_in_folders(tree):
    root = tree(
        'i/train/x/a.jpg', 'm/train/x/a.png', 'i/train/y/a.jpg', 'm/train/y/a.png', 'i/val/b.jpg', 'm/val/b.png'
    )
    expected = [
        ('x__a', 'a.jpg', 'a.png', 'train'),
        ('y__a', 'a.jpg', 'a.png', 'train'),
        ('b', 'b.jpg', 'b.png', 'val'),
    ]
    assert sorted(found(root / 'i', root / 'm')) == sorted(expected)
    other = tree('train/images/c.jpg', 'train/labels/c.png', 'valid/images/d.jpg', 'valid/labels/d.png')
    pairs = [(pair.name, pair.split) for pair in find_pairs(other / 'train', other / 'train').pairs]
    assert pairs == [('c', None)]


def test_what_is_left_over(tree):
    root = tree('i/a.jpg', 'i/b.jpg', 'm/a.png', 'm/c.png', 'i/.hidden.jpg', 'i/__MACOSX/a.jpg', 'i/notes.txt')
    pairs = find_pairs(root / 'i', root / 'm')
    assert [pair.name for pair in pairs.pairs] == ['a']
    assert [path.name for path in pairs.lonely_images] == ['b.jpg']
    assert [path.name for path in pairs.lonely_masks] == ['c.png']


def test_refused(tree):
    root = tree('i/a.jpg', 'm/b.png', 'two/a.jpg', 'two/a.bmp', 'empty/x.txt')
    with pytest.raises(UserError, match="no image has a mask: 1 images, such as 'a.jpg', and 1 masks, such as 'b.png'"):
        find_pairs(root / 'i', root / 'm')
    with pytest.raises(UserError, match='have the same name'):
        find_pairs(root / 'two', root / 'm')
    with pytest.raises(UserError, match='there is no image below'):
        find_pairs(root / 'empty', root / 'm')
    with pytest.raises(UserError, match='is no folder'):
        find_pairs(root / 'absent', root / 'm')


def test_the_split_is_always_the_same(tmp_path):
    names = [f'image{number}' for number in range(100)]
    chosen = split_names(names, '0.2', 0)
    assert len(chosen) == 20
    assert chosen == split_names(names[::-1], '0.2', 0) != split_names(names, '0.2', 1)
    assert split_names(['a', 'b'], '0.01', 0) < {'a', 'b'}
    (tmp_path / 'val.txt').write_text('image3.jpg\nfolder/image5\n\n')
    assert split_names(names, str(tmp_path / 'val.txt'), 0) == {'image3', 'image5'}


@pytest.mark.parametrize('val', ['1', '0', 'nonsense', '-0.1', 'nan'])
def test_no_such_split(val):
    with pytest.raises(UserError, match='--val'):
        split_names(['a', 'b'], val, 0)


def test_one_image_is_too_few(tmp_path):
    with pytest.raises(UserError, match='at least one each'):
        split_names(['a'], '0.5', 0)
    (tmp_path / 'val.txt').write_text('other')
    with pytest.raises(UserError, match='none of its lines'):
        split_names(['a', 'b'], str(tmp_path / 'val.txt'), 0)
