from __future__ import annotations

from pathlib import Path

import pytest

from densevit.compat import ops_state

pytest.importorskip('mmcv')


@pytest.mark.usefixtures('uncompiled_mmcv')
def test_torchvision_with_its_version():
    torchvision = pytest.importorskip('torchvision')
    assert ops_state() == ('torchvision', torchvision.__version__)
    assert str(ops_state()) == f'torchvision ({torchvision.__version__})'


@pytest.mark.usefixtures('uncompiled_mmcv')
@pytest.mark.parametrize(
    ('source', 'reason'),
    [
        # What torchvision does on import when it was built for another torch, ...
        ("raise RuntimeError('operator torchvision::nms does not exist')", 'torchvision::nms does not exist'),
        # ... when its library does not load and it goes on without, and when there is none.
        ('', "no attribute 'nms'"),
        ("raise ModuleNotFoundError('No module named torchvision')", 'No module named torchvision'),
    ],
)
def test_torchvision_that_does_not_load(fresh_python, new_process, tmp_path: Path, source: str, reason: str):
    (tmp_path / 'torchvision.py').write_text(source)
    # operators that a library has given to torch stay there
    answer = (new_process if source else fresh_python)(
        """
        import sys
        for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
            del sys.modules[name]
        import densevit, torch
        from densevit.compat import ops_state
        import mmcv.ops
        state, box = ops_state(), torch.tensor([[0., 0., 4., 3.]])
        try:
            mmcv.ops.nms(box, torch.ones(1), 0.5)
        except RuntimeError as error:
            print(state.source, '|', state.detail, '|', error)
        """,
        path=tmp_path,
    )
    source, detail, error = answer.split(' | ')
    assert source == 'missing'
    for text in (detail, error):
        assert reason in text
        assert 'install the torchvision release made for this torch' in text


def test_compiled_extension_that_does_not_load(new_process, tmp_path: Path):
    (tmp_path / '_ext.py').write_text("raise ImportError('undefined symbol: _ZN5torch')\n")
    assert new_process(f"""
        import mmcv
        mmcv.__path__.insert(0, {str(tmp_path)!r})
        import densevit
        from densevit.compat import ops_state
        print(ops_state())
    """) == 'missing (ImportError: undefined symbol: _ZN5torch)'  # fmt: skip
