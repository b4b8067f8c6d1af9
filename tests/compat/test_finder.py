from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from densevit.compat import install
from densevit.compat.finder import OPS_FILE, OpsFinder


def test_install_again_changes_nothing():
    before = list(sys.meta_path)
    install()
    assert sys.meta_path == before
    assert sum(isinstance(finder, OpsFinder) for finder in sys.meta_path) == 1


def test_finder_goes_last_and_imports_nothing(fresh_python):
    assert fresh_python("""
        import sys, densevit
        heavy = {'torch', 'torchvision', 'timm', 'numpy', 'mmcv', 'mmengine', 'mmseg', 'mmdet'}
        print(type(sys.meta_path[-1]).__name__, sorted(heavy & sys.modules.keys()))
    """) == 'OpsFinder []'  # fmt: skip


@pytest.mark.parametrize('name', ['mmcv', 'mmcv.ops', 'mmcv._ext2', '_ext', 'torch'])
def test_finder_answers_for_one_name_only(name):
    assert OpsFinder().find_spec('mmcv._ext').origin == OPS_FILE
    assert OpsFinder().find_spec(name) is None


def test_no_package_at_all(fresh_python):
    # -S leaves the site-packages out, so that only the standard library and densevit are there.
    assert fresh_python("""
        import densevit
        from densevit.compat import ops_state
        try:
            import mmcv._ext
        except ModuleNotFoundError as error:
            print(error.name, '|', ops_state())
    """, '-S') == 'mmcv | missing (mmcv is not installed)'  # fmt: skip


@pytest.mark.usefixtures('uncompiled_mmcv')
def test_served_module_is_ours_and_carries_a_spec():
    import mmcv._ext

    assert mmcv._ext.__spec__.name == 'mmcv._ext'
    assert mmcv._ext.__spec__.origin == OPS_FILE


@pytest.mark.usefixtures('uncompiled_mmcv')
def test_mm_packages_asking_for_operators_are_told_yes():
    """Their callers go on with ``import mmcv.ops``, which works, so yes is the honest answer."""
    from mmcv.utils import collect_env
    from mmcv.utils.ext_loader import check_ops_exist
    from mmengine.utils.dl_utils import mmcv_full_available

    assert mmcv_full_available()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # pkgutil.find_loader, from Python 3.12 on
        assert check_ops_exist()
    assert 'torchvision' in collect_env()['MMCV Compiler']  # calls an operator of _ext


@pytest.mark.parametrize('first', ['densevit', 'mmcv'])
def test_compiled_extension_wins(new_process, tmp_path: Path, first: str):
    pytest.importorskip('mmcv')
    (tmp_path / '_ext.py').write_text('compiled = True\n')
    assert new_process(f"""
        import {first}
        import mmcv
        mmcv.__path__.insert(0, {str(tmp_path)!r})
        import densevit
        import mmcv._ext
        from densevit.compat import ops_state
        print(mmcv._ext.compiled, hasattr(mmcv._ext, 'nms'), ops_state())
    """) == f'True False compiled ({tmp_path / "_ext.py"})'  # fmt: skip
