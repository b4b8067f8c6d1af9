"""Whichever is imported first, densevit or the mm packages: the end is the same, and the operators run."""

from __future__ import annotations

import json

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytestmark = pytest.mark.usefixtures('uncompiled_mmcv')

EVERYTHING = 'mmdet.models, mmdet.datasets, mmseg.models'

# What every name of every module is bound to, and what the registry holds.
STATE = """
import json, sys
from mmdet.registry import MODELS

def describe(value):
    return [type(value).__name__, getattr(value, '__module__', None), getattr(value, '__qualname__', None),
            [base.__module__ for base in getattr(value, '__bases__', ())]]

modules = {name: module for name, module in sys.modules.items()
           if name.split('.')[0] in ('mmcv', 'mmdet', 'mmseg')}
print(json.dumps(dict(
    registered=sorted(MODELS.module_dict),
    bound={f'{name}:{key}': describe(value) for name, module in modules.items()
           for key, value in vars(module).items() if not key.startswith('__')},
)))
"""

TOO_EARLY = """
try:
    import mmdet.models
except ModuleNotFoundError as error:
    assert error.name == 'mmcv._ext'
"""

WARNINGS_ARE_ERRORS = """
import warnings
warnings.filterwarnings('error', message='densevit')
"""

# The operators as Mask R-CNN uses them: targets of the mask head, RoI features, suppression of its boxes.
USE = """
import numpy as np, torch
import mmdet.models
from mmcv.ops import batched_nms
from mmdet.structures.mask import BitmapMasks

boxes = torch.tensor([[2., 1., 10., 7.], [0., 0., 12., 8.], [2., 1., 10., 6.5]])
masks = np.zeros((1, 8, 12), dtype=np.uint8)
masks[0, :, 6:] = 1
crops = BitmapMasks(masks, 8, 12).crop_and_resize(boxes, (4, 6), torch.zeros(3, dtype=torch.long))
assert crops.masks.shape == (3, 4, 6) and (crops.masks[0] == [0, 0, 0, 1, 1, 1]).all()

from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
extractor = SingleRoIExtractor(
    roi_layer=dict(type='RoIAlign', output_size=(7, 5), sampling_ratio=0),
    out_channels=3, featmap_strides=[4, 8], finest_scale=4)
maps = [torch.randn(2, 3, 16, 24, requires_grad=True), torch.randn(2, 3, 8, 12, requires_grad=True)]
rois = torch.cat((torch.tensor([[0.], [1.], [1.]]), boxes * torch.tensor([[1.], [1.], [9.]])), dim=1)
features = extractor(maps, rois)
features.square().sum().backward()
assert features.shape == (3, 3, 7, 5) and all(x.grad.abs().sum() > 0 for x in maps)

from mmdet.models.dense_heads import rpn_head
nms = dict(type='nms', iou_threshold=0.7)
for suppress in (batched_nms, rpn_head.batched_nms):
    detections, kept = suppress(boxes, torch.tensor([.9, .8, .7]), torch.tensor([0, 0, 0]), nms)
    assert kept.tolist() == [0, 1] and detections.shape == (2, 5)
"""


@pytest.fixture(scope='module')
def in_order(new_process) -> dict:
    """The state when densevit comes first."""
    return json.loads(new_process(f'import densevit, {EVERYTHING}' + USE + STATE))


@pytest.mark.slow
@pytest.mark.parametrize(
    'first',
    [
        pytest.param(TOO_EARLY, id='mmdet-models-fails-half-way'),
        pytest.param('import mmdet.structures, mmdet.utils, mmdet.datasets', id='mmdet-structures'),
        pytest.param('import mmseg.models', id='mmseg-models'),
    ],
)
def test_late_densevit_repairs(new_process, in_order, first):
    code = first + WARNINGS_ARE_ERRORS + f'import densevit, {EVERYTHING}' + USE + STATE
    repaired = json.loads(new_process(code))
    assert len(in_order['registered']) > 250
    assert repaired['registered'] == in_order['registered']
    # Bound by the `except` branch of that module and by nothing else.
    harmless = {'mmdet.models.dense_heads.clr_head.clr_head:logger'}
    different = {
        name
        for name in (in_order['bound'].keys() | repaired['bound'].keys()) - harmless
        if in_order['bound'].get(name) != repaired['bound'].get(name)
    }
    assert different == set()


def test_mmcv_itself_is_repaired(new_process):
    """mmdet's deformable detectors import the attention from here."""
    assert new_process("""
        import mmcv.cnn.bricks.transformer as transformer
        assert not hasattr(transformer, 'MultiScaleDeformableAttention')
        import densevit
        print(transformer.MultiScaleDeformableAttention.__module__)
    """) == 'mmcv.ops.multi_scale_deform_attn'  # fmt: skip


def test_what_cannot_be_repaired_is_said_in_one_sentence(new_process, tmp_path):
    """A compiled extension that does not load into this torch is not ours to replace."""
    (tmp_path / '_ext.py').write_text("raise ImportError('undefined symbol: _ZN5torch')\n")
    assert new_process(f"""
        import mmcv, warnings
        mmcv.__path__.insert(0, {str(tmp_path)!r})
        import mmdet.structures
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            import densevit
        print(*(warning.message for warning in caught), sep=' | ')
    """) == (
        "densevit: mmcv's operators cannot be imported (ImportError: undefined symbol: _ZN5torch); "
        'install mmcv anew, for this torch.'
    )  # fmt: skip
