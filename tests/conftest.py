"""Fixtures for the whole suite."""

from __future__ import annotations

import gc
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import densevit  # noqa: E402, F401  (before mmdet: it provides the operators that mmdet imports)

# A shell's background jobs ignore Ctrl-C, and so would the processes to which tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# pytest explains a failed assert only in modules that it has rewritten: test_*.py and these
pytest.register_assert_rewrite('tests.backbones.contract', 'tests.checkpoints.whole', 'tests.reference')


def _shared(kind: str) -> Path:
    folder = ROOT.parent / 'shared' / kind
    if not folder.is_dir():
        pytest.skip(f'needs {folder}, which this machine does not have')
    return folder


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Samples of real data sets; the test skips where they are absent."""
    return _shared('data')


@pytest.fixture(scope='session')
def shared_facts() -> Path:
    """Reference values of the original implementations; the test skips where they are absent."""
    return _shared('facts')


@pytest.fixture(scope='session', autouse=True)
def _plain_config_text():
    """The text of a config, which every run writes, is not laid out, for which yapf takes half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **options: (text, True))
        yield


@pytest.fixture(autouse=True)
def _imported_is_no_garbage():
    """What was imported is not looked through for garbage: mmengine looks at every data set, for 0.3 s in all that."""
    if len(sys.modules) > _seen[0] + 100:
        _seen[0] = len(sys.modules)
        gc.collect()
        gc.freeze()


_seen = [0]


@pytest.fixture(autouse=True)
def _seed():
    """Every test starts from the same random numbers and leaves the state as it was."""
    torch = pytest.importorskip('torch')
    import numpy as np

    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)
        yield
    np.random.set_state(numpy_state)
