"""The text of a run's config is mmengine's, and is laid out once."""

from __future__ import annotations

import copy
import pickle

import pytest
from mmengine.config import Config
from yapf.yapflib.yapf_api import FormatCode

from densevit.engine.config_text import ConfigOfRun


@pytest.fixture
def laid_out(monkeypatch) -> list[Config]:
    """The configs whose text mmengine has laid out, by yapf, which the tests do without elsewhere."""
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', FormatCode)
    asked, original = [], Config.pretty_text.fget
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: asked.append(self) or original(self)))
    return asked


def config(file) -> Config:
    file.write_text("model = dict(type='Toy', sizes=[1, (2, 3)], options={'a.b': None})\nnumber = 1\n")
    return Config.fromfile(file)


def test_text_is_that_of_mmengine_and_laid_out_once(tmp_path, laid_out):
    cfg = config(tmp_path / 'toy.py')
    ours = copy.deepcopy(ConfigOfRun.of(cfg))  # as mmengine's runner copies it
    assert ours.filename == cfg.filename and ours.to_dict() == cfg.to_dict()
    expected = cfg.pretty_text
    laid_out.clear()
    assert ours.pretty_text == ours.pretty_text == ours.dump() == expected
    ours.dump(tmp_path / 'dumped.py')
    assert (tmp_path / 'dumped.py').read_text() == expected
    assert copy.deepcopy(ours).pretty_text == expected
    assert len(laid_out) == 1
    assert pickle.loads(pickle.dumps(ours)).pretty_text == expected


def test_change_is_in_the_text(tmp_path, laid_out):
    ours = ConfigOfRun.of(config(tmp_path / 'toy.py'))
    assert 'number = 1\n' in ours.pretty_text
    ours.number = True  # equal, but written in another way
    assert 'number = True\n' in ours.pretty_text
    ours.model.sizes[1] = 7
    assert 'sizes=[\n    1,\n    7,\n' in ours.pretty_text.replace('    ' * 2, '    ')
    assert len(laid_out) == 3 and '_laid_out' not in ours.to_dict()
