"""Packages that are missing, mixed or untested are findings too."""

from __future__ import annotations

import pytest
from mmengine.config import Config

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from densevit.analysis import environment  # noqa: E402
from densevit.analysis.environment import Check  # noqa: E402
from densevit.check.environment import environment_findings  # noqa: E402
from tests.check.test_planted import assert_found  # noqa: E402

CFG = Config(dict(default_scope='mmseg'))
VERSIONS = dict(environment.TESTED)


def installed(monkeypatch, **changed: str | None) -> None:
    """As if these distributions were installed in these versions, and all others in a tested one."""
    names = {name.replace('_', '-'): found for name, found in changed.items()}
    lower = {name: bounds[0] for name, bounds in VERSIONS.items()}
    monkeypatch.setattr(environment, '_version', lambda name: names.get(name, lower.get(name)))


def test_a_tested_environment_has_no_findings(monkeypatch):
    installed(monkeypatch)
    assert list(environment_findings(CFG)) == []


@pytest.mark.parametrize(
    ('changed', 'kind', 'level', 'words'),
    [
        # USERS A1 and A2
        ({'onedl_mmcv': None}, 'package-missing', 'error', ('mmcv', 'pip install', 'onedl-mmcv')),
        ({'onedl_mmsegmentation': None}, 'package-missing', 'error', ('mmseg', 'onedl-mmsegmentation')),
        ({'mmcv': '2.1.0'}, 'mm-packages-mixed', 'error', ('mmcv and onedl-mmcv', 'pip uninstall')),
        ({'mmcv_full': '1.7.2'}, 'mm-packages-mixed', 'error', ('mmcv-full and onedl-mmcv',)),
        ({'onedl_mmcv': None, 'mmcv': '2.2.0'}, 'package-version', 'note', ('mmcv 2.2.0 (original)', 'tested')),
        ({'torch': '1.13.1'}, 'package-version', 'note', ('torch: 1.13.1', 'torch>=2.11')),
        ({'numpy': '1.26.4'}, 'package-version', 'note', ('numpy: 1.26.4', 'numpy>=2')),
    ],
)
def test_packages(monkeypatch, changed, kind, level, words):
    installed(monkeypatch, **changed)
    assert_found(list(environment_findings(CFG)), kind, level, *words)


def test_operators(monkeypatch):
    installed(monkeypatch)
    monkeypatch.setattr(
        environment, 'check_ops', lambda: Check('mmcv ops', 'problem', 'none: no torchvision', 'mend it')
    )
    assert_found(list(environment_findings(CFG)), 'operator-missing', 'error', 'no torchvision', 'mend it')


def test_detection_is_not_asked_of_a_config_for_segmentation(monkeypatch):
    installed(monkeypatch, onedl_mmdetection=None)
    assert list(environment_findings(CFG)) == []
