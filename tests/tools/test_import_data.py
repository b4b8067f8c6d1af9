"""tools/import_data.py as a new user meets it: own files, then three commands."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit.config.reading import load_config
from densevit.data.scenes import CLASSES, THINGS

from .conftest import call

WIDE = len(CLASSES)
COLORS = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
QUICK = (
    'model.backbone.arch.depth=1',
    'train_dataloader.batch_size=2',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val', 'test')),
)


@pytest.fixture
def mine(scenes, tmp_path, monkeypatch) -> Path:
    """12 photos of three kinds, masks in colours, a table, and a COCO file, in the working folder."""
    for folder in ('photos', 'masks', 'pictures'):
        (tmp_path / folder).mkdir()
    files = sorted((scenes / 'ade/images').glob('*/*.png'))
    for index, file in enumerate(files):
        name = f'{file.parent.name}{file.stem}'
        Image.open(file).convert('RGB').save(tmp_path / 'photos' / f'{name}{(".png", ".jpg", ".bmp")[index % 3]}')
        labels = np.asarray(Image.open(str(file).replace('images', 'annotations')))
        Image.fromarray(COLORS[labels]).save(tmp_path / 'masks' / f'{name}_L.png')
    table = [f'{name}, {", ".join(map(str, color))}' for name, color in zip(('void', *CLASSES), COLORS)]
    (tmp_path / 'classes.csv').write_text('name,r,g,b\n' + '\n'.join(table))
    for file in (scenes / 'coco').glob('*/*.*'):
        if file.suffix != '.json':
            shutil.copy(file, tmp_path / 'pictures')
    content = json.loads(next((scenes / 'coco/annotations').glob('*train*.json')).read_text())
    for image in content['images']:
        image['file_name'] = f'D:\\work\\{image["file_name"]}'
    (tmp_path / 'mine.json').write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shortened(config: Path) -> Path:
    """A schedule of a few steps."""
    text = re.sub(r'^max_iters = \d+', 'max_iters = 10', config.read_text(), flags=re.MULTILINE)
    text = re.sub(r'^val_interval = .*', 'val_interval = 10', text, flags=re.MULTILINE)
    text = re.sub(r'^max_epochs = \d+', 'max_epochs = 1', text, flags=re.MULTILINE)
    text = re.sub(r'(val_interval|checkpoint=dict\(interval)=\d+', r'\1=1', text)
    config.write_text(re.sub(r'begin=0, end=\d+\)', 'begin=0, end=2)', text))
    return config


def test_masks_in_three_commands(mine, tool):
    before = {path: path.read_bytes() for path in mine.rglob('*') if path.is_file()}
    command = ('import_data', 'photos', '--masks', 'masks', '--classes', 'classes.csv', '--out', 'data/scenes')
    done = tool(*command, '--model', 'upernet_patchconvnet-tiny')
    assert done.status == 0, done.err
    assert "12 images with masks, named like their images but '*_L'" in done.out
    assert '10 images for training, 2 for validation' in done.out
    config = mine / 'data/scenes/upernet_patchconvnet-tiny_scenes.py'
    assert f'tools/train.py {config.relative_to(mine)}' in done.out
    cfg = load_config(config)
    assert cfg.metainfo.classes == CLASSES
    assert cfg.metainfo.palette == COLORS[1 : WIDE + 1].tolist()
    assert cfg.model.decode_head.num_classes == WIDE
    assert 'class_weight' not in cfg.model.decode_head.loss_decode

    state = {
        path: path.lstat().st_mtime_ns
        for path in (mine / 'data').rglob('*')
        if path.is_symlink() or path.suffix == '.png'
    }
    assert tool(*command, '--model', 'upernet_patchconvnet-tiny').out == done.out
    assert {path: path.lstat().st_mtime_ns for path in state} == state

    shortened(config)
    work_dir = mine / 'run'
    quick = ('--cfg-options', *QUICK, 'model.decode_head.channels=16')
    assert call('train', config, '--work-dir', work_dir, *quick) == 0
    best = next(work_dir.glob('best_mIoU_*.pth'))
    assert call('predict', config, best, 'photos', '--out', 'found', *quick[:2], 'model.decode_head.channels=16') == 0
    legend = json.loads((mine / 'found/classes.json').read_text())['classes']
    assert [(each['name'], each['color']) for each in legend] == list(zip(CLASSES, COLORS[1 : WIDE + 1].tolist()))
    assert 'changed by hand and is left' in tool(*command, '--model', 'upernet_patchconvnet-tiny').out
    assert all(path.read_bytes() == content for path, content in before.items())


def test_coco_in_three_commands(mine, tool):
    done = tool(
        'import_data',
        'pictures',
        '--coco',
        'mine.json',
        '--out',
        'd',
        '--model',
        'mask_rcnn_patchconvnet-tiny',
        '--val',
        '0.25',
    )
    assert done.status == 0, done.err
    assert '6 images for training, 2 for validation' in done.out
    config = shortened(mine / 'd/mask_rcnn_patchconvnet-tiny_d.py')
    assert load_config(config).metainfo.classes == THINGS
    assert call('train', config, '--work-dir', 'run', '--cfg-options', *QUICK) == 0
    checkpoint = next((mine / 'run').glob('epoch_*.pth'))
    assert call('test', config, checkpoint, '--cfg-options', *QUICK) == 0
    assert 'coco/segm_mAP' in json.loads((mine / 'run/metrics.json').read_text())


def test_every_model_is_taken(mine, tool):
    """The heads of all shipped families get the classes; lists of heads, too."""
    for model in ('upernet_swin', 'semfpn_pvtv2', 'upernet_patchconvnet-tiny-classattn'):
        done = tool(
            'import_data', 'photos', '--masks', 'masks', '--classes', 'classes.csv', '--out', model, '--model', model
        )
        assert done.status == 0, done.err
        assert set(heads(load_config(next(Path(model).glob('*.py'))).model)) == {WIDE}
    for model in ('cascade_mask_rcnn_swin', 'mask_rcnn_patchconvnet-tiny-classattn_scenes'):
        done = tool('import_data', 'pictures', '--coco', 'mine.json', '--out', model, '--model', model)
        assert done.status == 0, done.err
        cfg = load_config(next(Path(model).glob('*.py')))
        assert set(heads(cfg.model)) == {len(THINGS)}
        assert cfg.train_dataloader.dataset.type == 'CocoDataset'


def heads(part) -> list[int]:
    if isinstance(part, (list, tuple)):
        return [each for item in part for each in heads(item)]
    if not isinstance(part, dict):
        return []
    own = [part['num_classes']] if 'num_classes' in part else []
    return own + [each for item in part.values() for each in heads(item)]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['photos', '--masks', 'masks', '--out', 'photos/out'], "lies in 'photos', where your own files are"),
        (['photos', '--masks', 'masks', '--out', 'pictures'], 'is there already and is not of this tool'),
        (['photos', '--masks', 'masks', '--out', 'o', '--model', 'upernet_swim'], "did you mean 'upernet_swin'"),
        (['photos', '--masks', 'masks', '--out', 'o', '--model', 'mask_rcnn_swin'], 'is a detector, which takes COCO'),
        (['photos', '--masks', 'pictures', '--out', 'o'], 'no image has a mask'),
        (['absent', '--masks', 'masks', '--out', 'o'], "'absent' is no folder"),
        (['photos', '--masks', 'masks', '--out', 'o', '--classes', *'abc'], 'the table of --classes has none'),
        (['photos', '--coco', 'mine.json', '--out', 'o'], 'images of .*mine.json.* are not below'),
        (['pictures', '--coco', 'mine.json', '--classes', 'a', '--out', 'o'], 'have their own classes'),
        (['photos', '--masks', 'masks', '--out', 'classes.csv/x'], 'cannot be written'),
    ],
)
def test_refused(mine, tool, arguments, message):
    done = tool('import_data', *arguments)
    assert done.status == 2
    assert re.search(message, done.err)
    assert done.err.count('\n') == 1
    assert not Path('o').exists()


def test_an_update_removes_what_is_gone_and_nothing_else(mine, tool):
    command = ('import_data', 'photos', '--masks', 'masks', '--classes', 'classes.csv', '--out', 'o')
    assert tool(*command, '--copy').status == 0
    copies = [path for path in Path('o/images').rglob('*.*')]
    assert len(copies) == 12 and not any(path.is_symlink() for path in copies)
    Path('o/notes.txt').write_text('mine')
    next(Path('photos').glob('*.bmp')).unlink()
    assert '1 masks have no image and are left out' in tool(*command).out
    left = [path for path in Path('o/images').rglob('*.*')]
    assert len(left) == 11 and all(path.is_symlink() for path in left)
    assert Path('o/notes.txt').read_text() == 'mine'
