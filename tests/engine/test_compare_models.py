"""Models are measured one after the other, once, into a file that is always whole; then there is a page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('mmengine')

from densevit.benchmark.run import Options  # noqa: E402
from densevit.engine import compare_models as module  # noqa: E402
from densevit.engine.compare_models import chosen, measure  # noqa: E402
from densevit.errors import UserError  # noqa: E402
from tests.tools.conftest import call  # noqa: E402

SIZES = {'a': (64, 96), 'b': (32, 32), 'c': (32, 32)}
OPTIONS = Options(rounds=1, fold=True)


@pytest.fixture
def inspected(monkeypatch) -> list[str]:
    """The names that were measured, instead of measuring them."""
    import torch

    names: list[str] = []

    def inspect(name: str, options: Options) -> dict[str, Any]:
        names.append(name)
        if name == 'b':
            raise MemoryError('too little\nof it')
        return dict(
            model=name, size=list(options.size), batch=options.batch, train=False, device='cpu', dtype=options.dtype,
            threads=torch.get_num_threads(), channels_last=False, compile=False, fold=options.fold, images_per_s=1.5,
        )  # fmt: skip

    monkeypatch.setattr(module, 'inspect', inspect)
    monkeypatch.setattr(sys, 'argv', ['tools/compare_models.py'])
    return names


def test_names():
    names = ['upernet_swin_ade20k', 'upernet_cvt_ade20k', 'mask_rcnn_swin_coco']
    assert chosen([], names) == names
    assert chosen(['*swin*', 'upernet_*'], names) == [names[0], names[2], names[1]]
    with pytest.raises(UserError, match="'upernet_swim_ade20k'; did you mean 'upernet_swin_ade20k'"):
        chosen(['upernet_swim_ade20k'], names)


def test_measuring_goes_on_where_it_was_stopped(inspected, tmp_path, capsys):
    file = tmp_path / 'new' / 'models.json'
    assert measure(['a', 'b'], SIZES, OPTIONS, file) == ['b']
    assert 'b was not measured: too little' in capsys.readouterr().err
    assert [result['size'] for result in json.loads(file.read_text())['results']] == [[64, 96]]
    assert measure(['a', 'b', 'c'], SIZES, OPTIONS, file) == ['b']
    assert inspected == ['a', 'b', 'b', 'c']
    measure(['a'], SIZES, Options(rounds=1, fold=True, batch=2), file)
    measure(['a'], SIZES, OPTIONS, file)
    assert inspected == ['a', 'b', 'b', 'c', 'a']
    content = json.loads(file.read_text())
    assert [(result['model'], result['batch']) for result in content['results']] == [('a', 1), ('c', 1), ('a', 2)]
    assert content['kind'] == 'inspect' and list(file.parent.iterdir()) == [file]


def test_machines_are_not_mixed(inspected, tmp_path):
    file = tmp_path / 'models.json'
    measure(['a'], SIZES, OPTIONS, file)
    content = json.loads(file.read_text())
    content['machine']['cpu'] = 'another'
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match='holds other measurements .another, .*--json'):
        measure(['c'], SIZES, OPTIONS, file)
    assert inspected == ['a']


@pytest.mark.slow
def test_the_tool(tmp_path, capfd, monkeypatch):
    """With a real measurement of the smallest model; then again, when it is there; and what it has against a file."""
    # in a child, which tests/benchmark/test_child.py starts
    monkeypatch.setattr('densevit.benchmark.run.in_child', lambda arguments: {'peak_bytes': 7})
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        return call('compare_models', *arguments), *capfd.readouterr()

    arguments = ['--out', 'page.html', '--json', 'kept.json', '--rounds', '1', '--threads', '1']
    status, out, err = run(*arguments, '--measure', 'upernet_patchconvnet-tiny_camvid')
    assert status == 0, err
    assert out.splitlines()[-1] == str(tmp_path / 'page.html') and (tmp_path / 'page.html').is_file()
    (result,) = json.loads((tmp_path / 'kept.json').read_text())['results']
    assert result['size'] == [256, 256] and result['images_per_s'] > 0 and result['peak_bytes'] == 7
    status, _, err = run(*arguments, '--measure', 'upernet_patchconvnet-tiny_camvid')
    assert status == 0 and 'patchconvnet' not in err
    status, _, err = run(str(root / 'docs/performance/table.json'), '--out', 'page.html')
    assert status == 2 and "has results of kind 'table'" in err
    with pytest.raises(SystemExit) as end:
        run('--batch', '0')
    assert end.value.code == 2 and "'0' is no whole number" in capfd.readouterr().err
