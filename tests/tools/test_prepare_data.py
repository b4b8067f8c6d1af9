"""tools/prepare_data.py as it is called."""

from __future__ import annotations

import pytest

from densevit.data.prepare.datasets import DATASETS
from tests.data.prepare.archive_files import ade20k, with_counts, write_zip

from .conftest import load_tool


def test_help_names_every_option_and_data_set(capsys):
    with pytest.raises(SystemExit) as end:
        load_tool('prepare_data').parser().parse_args(['--help'])
    assert end.value.code == 0
    text = capsys.readouterr().out
    expected = (*DATASETS, '--archive', '--download', '--url', '--to', '--debug')
    assert [name for name in expected if name not in text] == []


def test_prepared_and_prepared_again(tool, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, 'ade20k', with_counts('ade20k', training=5, validation=3))
    archive = write_zip(tmp_path / 'x.zip', ade20k())
    root = tmp_path / 'set'
    assert tool('prepare_data', 'ade20k', '--to', root).status == 1
    done = tool('prepare_data', 'ade20k', '--to', root, '--archive', archive)
    assert done.status == 0 and 'unpacking x.zip' in done.err
    assert done.out.rstrip().endswith(f'upernet_patchconvnet_ade20k --cfg-options data_root={root}')
    again = tool('prepare_data', 'ade20k', '--to', root, '--archive', archive)
    assert again.status == 0 and 'nothing to do' in again.out and again.err == ''


def test_a_mistake_is_one_sentence(tool, tmp_path):
    page = tmp_path / 'ADEChallengeData2016.zip'
    page.write_text('<html><title>404 Not Found</title>')
    for options in (['--archive', page], ['--archive', tmp_path / 'none.zip'], ['--url', 'http://127.0.0.1/']):
        done = tool('prepare_data', 'ade20k', '--to', tmp_path / 'set', *options)
        assert done.status == 2 and done.err.startswith('error: ') and done.err.count('\n') == 1
    assert not (tmp_path / 'set').exists()


def test_an_unknown_data_set(tool, capfd):
    with pytest.raises(SystemExit):
        tool('prepare_data', 'cityscapes')
    assert 'choose from' in capfd.readouterr().err
