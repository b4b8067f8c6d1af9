"""tools/browse_data.py on the real data sets, and what it has against a mistake."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from densevit.engine.browse import browse  # noqa: E402
from densevit.engine.cli import run_tool  # noqa: E402
from tests.scope import scope_restored  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
COCO = {
    f'{split}_dataloader.dataset.{key}': value
    for split in ('train', 'val')
    for key, value in (('ann_file', f'annotations/instances_{split}.json'), ('data_prefix.img', f'{split}/'))
}
DATA = {
    'upernet_swin_ade20k': ('ade20k_samples', {}),
    'upernet_patchconvnet-tiny_camvid': ('camvid', {}),
    'mask_rcnn_pvt-tiny_coco': ('coco_ccby', COCO),
    'mask_rcnn_patchconvnet-tiny_nuclei': ('nuclei', {}),
}


def arguments(config: str, out: Path, **options) -> argparse.Namespace:
    given = dict(split='train', num=2, versions=None, seed=0, cfg_options={}, debug=False) | options
    return argparse.Namespace(config=config, out=out, **given)


def run(args: argparse.Namespace) -> int:
    """As the tool does."""
    parser = argparse.ArgumentParser()
    parser.parse_intermixed_args = lambda argv: args
    return run_tool(parser, browse)


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('name', DATA)
def test_real_data(shared_data, tmp_path, capsys, name, split):
    folder, options = DATA[name]
    out = tmp_path / 'new' / 'page.html'
    assert run(arguments(name, out, split=split, cfg_options={'data_root': str(shared_data / folder), **options})) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    page = out.read_text()
    assert page.count('class="card"') == 2
    assert page.count('version 3, ') == (2 if split == 'train' else 0) * 3  # a picture with and without labels, a line
    assert 'standard deviation' in page and '58.40, 57.12, 57.38' in page


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(cfg_options={'data_root': '/nowhere'}), "data root '/nowhere' does not exist"),
        (dict(config='upernet_swim_ade20k'), 'did you mean'),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, options, message):
    config = options.pop('config', 'upernet_swin_ade20k')
    assert run(arguments(config, tmp_path / 'page.html', **options)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith('error: ') and '\n' not in error
    assert not list(tmp_path.iterdir())


def test_the_tool_says_what_it_takes():
    command = [sys.executable, str(ROOT / 'tools/browse_data.py')]
    done = subprocess.run([*command, 'x', '--num', '0'], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "argument --num: '0' is no whole number from 1" in done.stderr
    done = subprocess.run([*command, '--help'], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for option in ('--split', '--num', '--versions', '--seed', '--out', '--cfg-options'):
        assert option in done.stdout
