"""What nobody needs to read stays off the screen."""

from __future__ import annotations

import warnings

import pytest

from densevit.config.reading import load_config
from densevit.noise import ignore_warnings


@pytest.mark.parametrize('name', ['upernet_patchconvnet-tiny_camvid', 'mask_rcnn_patchconvnet-tiny_scenes'])
def test_a_variable_that_a_config_reads_is_no_news(name, monkeypatch, capfd):
    monkeypatch.setenv('DENSEVIT_DATA', '/somewhere')
    with warnings.catch_warnings():
        ignore_warnings()
        cfg = load_config(name)
    assert cfg.test_dataloader.dataset.data_root.startswith('/somewhere')
    said = capfd.readouterr()
    assert 'DENSEVIT_DATA' not in said.out + said.err
