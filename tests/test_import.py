"""Importing densevit draws in nothing that is not asked for."""

from __future__ import annotations

import pytest

from tests.fresh import run_forked, run_fresh


def test_import_draws_in_nothing_heavy():
    loaded = run_fresh('import densevit, sys; print(*sorted(sys.modules))').split()
    heavy = {
        'torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'numpy', 'cv2', 'PIL', 'rich', 'scipy',
        'matplotlib', 'transformers', 'sklearn', 'plotly', 'jinja2', 'yaml', 'pycocotools',
    }  # fmt: skip
    assert 'densevit' in loaded
    assert not heavy & set(loaded)


@pytest.mark.parametrize('module', [
    'densevit.backbones.patchconvnet', 'densevit.layers', 'densevit.necks.columnar_pyramid', 'densevit.checkpoints',
    'densevit.classifiers.image_classifier',
])  # fmt: skip
def test_models_need_neither_mmseg_nor_mmdet(module):
    run_forked(f'import {module}', absent=('mmseg', 'mmdet'))


def test_models_do_not_import_mmseg_or_mmdet_where_they_are():
    loaded = run_forked("""
        import densevit, sys
        densevit.PatchConvNet, densevit.ImageClassifier, densevit.ColumnarPyramid
        import densevit.checkpoints
        print(*sorted(sys.modules))
    """).split()
    assert 'densevit.backbones.patchconvnet' in loaded
    assert not {'mmseg', 'mmdet'} & set(loaded)


def test_attributes():
    import densevit
    from densevit.registry import PARTS

    assert set(PARTS) <= set(dir(densevit))
    with pytest.raises(AttributeError, match="no attribute 'PatchConvNt'; did you mean 'PatchConvNet'"):
        _ = densevit.PatchConvNt
    assert not hasattr(densevit, '__wrapped__')
    assert densevit.__version__.count('.') == 2


def test_without_mmengine_the_message_says_what_to_install():
    printed = run_forked(
        """
        import densevit
        try:
            densevit.PatchConvNet
        except ModuleNotFoundError as error:
            print(error)
        """,
        absent=('mmengine',),
    )
    assert 'mmengine is not installed' in printed
    assert 'pip install' in printed
