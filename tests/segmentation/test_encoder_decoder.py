"""densevit.EncoderDecoder against mmsegmentation's, with the same weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder as MmsegEncoderDecoder
from mmseg.models.segmentors.seg_tta import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from densevit.layers.label_map import StoredMap
from densevit.segmentation import encoder_decoder
from densevit.segmentation.encoder_decoder import EncoderDecoder, LazyLogits


@MODELS.register_module(name='StemOfTests', force=True)
class Stem(nn.Module):
    """A map of stride 4; remembers how many images came at once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 5, stride=4, padding=2)
        self.batches: list[int] = []

    def forward(self, x):
        self.batches.append(len(x))
        return (self.conv(x).sin(),)


@MODELS.register_module(name='HeadOfTests', force=True)
class OwnWay(BaseDecodeHead):
    """A head that makes logits as large as the input by itself."""

    def forward(self, inputs):
        return self.cls_seg(inputs[0])

    def predict_by_feat(self, seg_logits, batch_img_metas):
        return nn.functional.interpolate(seg_logits, tuple(batch_img_metas[0]['img_shape'][:2]), mode='nearest')


def pair(head='FCNHead', test_cfg=None, num_classes=11, **options):
    """mmsegmentation's segmentor and ours, with the same weights."""
    settings = dict(type=head, in_channels=16, in_index=0, channels=16, num_classes=num_classes, dropout_ratio=0)
    if head == 'FCNHead':
        settings.update(num_convs=0, concat_input=False)
    cfg = ConfigDict(
        backbone=dict(type='StemOfTests'),
        decode_head=dict(**settings, **options),
        test_cfg=test_cfg or dict(mode='whole'),
    )
    theirs, ours = (kind(**copy.deepcopy(cfg)) for kind in (MmsegEncoderDecoder, EncoderDecoder))
    nn.init.normal_(theirs.decode_head.conv_seg.weight)
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


def samples(number, **meta):
    meta = dict(img_shape=(62, 85), pad_shape=(62, 85)) | meta
    return [SegDataSample(metainfo=dict(meta, img_path=f'{index}.jpg')) for index in range(number)]


def check_equal(theirs, ours, x, atol=1e-6, **meta):
    """Predict with both: the same labels, where no two classes are equally good, and logits."""
    with torch.inference_mode():
        expected, found = (model.predict(x, samples(len(x), **meta) if meta else None) for model in (theirs, ours))
    assert len(found) == len(expected) == len(x)
    for ours_, theirs_ in zip(found, expected):
        labels, logits = theirs_.pred_sem_seg.data, theirs_.seg_logits.data
        assert labels.float().std() > 0
        assert ours_.seg_logits.shape == logits.shape[1:]
        torch.testing.assert_close(ours_.seg_logits.data, logits, rtol=0, atol=atol)
        assert (ours_.pred_sem_seg.data.shape, ours_.pred_sem_seg.data.dtype) == (labels.shape, labels.dtype)
        differ = (ours_.pred_sem_seg.data != labels)[0]
        if differ.any():
            best, second = logits.topk(2, dim=0).values
            assert (best - second)[differ].max() < 4 * atol
    return found


METAS = {
    'without samples': {},
    'as the input': dict(ori_shape=(62, 85)),
    'larger': dict(ori_shape=(131, 97)),
    'smaller': dict(ori_shape=(31, 40)),
    'much larger': dict(ori_shape=(301, 412)),
    'one row': dict(ori_shape=(1, 40)),
    'padded': dict(ori_shape=(123, 77), img_padding_size=[3, 10, 2, 7]),
    'padded on one side': dict(ori_shape=(123, 77), padding_size=[0, 9, 0, 0]),
    'flipped': dict(ori_shape=(70, 93), flip=True, flip_direction='horizontal'),
    'padded and flipped': dict(ori_shape=(70, 93), flip=True, flip_direction='vertical', padding_size=[1, 2, 3, 4]),
    'not flipped': dict(ori_shape=(70, 93), flip=False, flip_direction='horizontal'),
    'other shape than the input': dict(ori_shape=(70, 93), pad_shape=(80, 64)),
    'shape with channels': dict(ori_shape=(70, 93), pad_shape=(62, 85, 3)),
}


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('meta', METAS.values(), ids=METAS)
def test_label_maps_and_logits(meta, align_corners):
    check_equal(*pair(align_corners=align_corners), torch.randn(2, 3, 62, 85), **meta)


@pytest.mark.parametrize('size', [(33, 128), (9, 5), (5, 90), (128, 33)])
def test_sizes(size):
    check_equal(*pair(), torch.randn(1, 3, *size), ori_shape=(size[0] * 3, size[1] + 7), pad_shape=size)


def test_float64():
    theirs, ours = pair()
    check_equal(
        theirs.double(), ours.double(), torch.randn(1, 3, 62, 85, dtype=torch.float64), 1e-12, ori_shape=(131, 97)
    )


def test_half_precision_is_resized_in_float32():
    theirs, ours = pair()
    x = torch.randn(1, 3, 62, 85)
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        (found,) = ours.predict(x, samples(1, ori_shape=(131, 97)))
        logits = theirs._forward(x)
    assert logits.dtype == torch.bfloat16 == found.seg_logits.data.dtype
    for size in ((62, 85), (131, 97)):
        logits = nn.functional.interpolate(logits.float(), size, mode='bilinear')
    differ = logits.argmax(1) != found.pred_sem_seg.data
    best, second = logits[0].topk(2, dim=0).values
    assert not differ.any() or (best - second)[differ[0]].max() < 1e-5


def test_binary():
    models = pair(num_classes=2, out_channels=1, threshold=0.4)
    found = check_equal(*models, torch.randn(2, 3, 62, 85), ori_shape=(131, 97))
    assert set(found[0].pred_sem_seg.data.unique().tolist()) == {0.0, 1.0}
    assert 0 <= found[0].seg_logits.data.min() < found[0].seg_logits.data.max() <= 1


def test_a_head_with_its_own_way_to_the_input_size():
    models = pair('HeadOfTests')
    check_equal(*models, torch.randn(2, 3, 62, 85), ori_shape=(131, 97))
    for model in models:
        model.test_cfg = ConfigDict(mode='slide', crop_size=(40, 50), stride=(30, 30))
    check_equal(*models, torch.randn(2, 3, 62, 85), ori_shape=(131, 97))


@pytest.mark.parametrize('crop_batch', [None, 1, 4, 100])
@pytest.mark.parametrize(
    'crop_size, stride', [((40, 50), (30, 29)), ((40, 50), (13, 50)), ((64, 32), (20, 20)), ((99, 99), (7, 7))]
)
def test_windows(crop_size, stride, crop_batch):
    options = {} if crop_batch is None else dict(crop_batch=crop_batch)
    models = pair(test_cfg=dict(mode='slide', crop_size=crop_size, stride=stride, **options))
    x = torch.randn(2, 3, 62, 85)
    for meta in (
        {},
        dict(ori_shape=(131, 97)),
        dict(ori_shape=(40, 50), padding_size=[1, 2, 3, 4], flip=True, flip_direction='vertical'),
    ):
        check_equal(*models, x, 5e-6, **meta)  # a convolution rounds otherwise with another number of images


def test_windows_go_through_the_network_together():
    theirs, ours = pair(test_cfg=dict(mode='slide', crop_size=(40, 50), stride=(30, 29), crop_batch=4))
    for model in (theirs, ours):
        with torch.inference_mode():
            model.predict(torch.randn(2, 3, 62, 85))
    assert theirs.backbone.batches == [2] * 6
    assert ours.backbone.batches == [8, 4]


def test_nothing_of_full_size_is_made_unless_asked_for(monkeypatch):
    _, ours = pair()
    whole = []
    monkeypatch.setattr(StoredMap, 'whole', lambda self: whole.append(self) or self.logits[None])
    with torch.inference_mode():
        found, other = ours.predict(torch.randn(2, 3, 62, 85), samples(2, ori_shape=(131, 97)))

    class Metric(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results += [each['pred_sem_seg']['data'].float().mean() for each in data_samples]
            self.logits = data_samples[0]['seg_logits']

        def compute_metrics(self, results):
            return {}

    metric = Metric()
    Evaluator(metric).process([found, other])
    again = pickle.loads(pickle.dumps(found))
    assert found.clone().pred_sem_seg is found.pred_sem_seg and 'seg_logits' in found.keys()
    assert found.seg_logits.shape == (131, 97)
    assert not whole

    logits = metric.logits['data']
    assert logits.shape == (11, 131, 97) and len(whole) == 1
    assert found.seg_logits.data is logits and len(whole) == 1
    assert torch.equal(again.seg_logits.data, logits) and len(whole) == 2


READERS = {
    'data': lambda each: each.data,
    'get': lambda each: each.get('data'),
    'values': lambda each: each.values()[0],
    'cpu': lambda each: each.cpu().data,
    'to': lambda each: each.to(torch.float32).data,
    'numpy': lambda each: torch.from_numpy(each.numpy().data),
    'detach': lambda each: each.detach().data,
    'slice': lambda each: each[0:9, 0:9].data,
    'to_dict': lambda each: each.to_dict()['data'],
    'to_dict, get': lambda each: each.to_dict().get('data'),
    'to_dict, items': lambda each: next(value for key, value in each.to_dict().items()),
    'to_dict, values': lambda each: each.to_dict().values()[0],
    'to_dict, copy': lambda each: each.to_dict().copy()['data'],
    'to_dict, dict': lambda each: dict(each.to_dict())['data'],
    'to_dict, unpacked': lambda each: {**each.to_dict()}['data'],
    'to_dict, pickled': lambda each: pickle.loads(pickle.dumps(each.to_dict()))['data'],
    'to_dict, copied': lambda each: copy.deepcopy(each.to_dict())['data'],
    'pickled': lambda each: pickle.loads(pickle.dumps(each)).data,
    'copied': lambda each: copy.deepcopy(each).data,
    'clone': lambda each: each.clone().data,
    'second time': lambda each: (each.data, each.to_dict()['data'])[1],
}


@pytest.mark.parametrize('read', READERS.values(), ids=READERS)
def test_every_way_to_the_logits(read):
    logits = torch.randn(3, 9, 9)
    element = LazyLogits(StoredMap(logits))
    assert torch.equal(read(element), logits)
    with pytest.raises(AttributeError, match='nothing'):
        element.nothing  # noqa: B018
    with pytest.raises(KeyError, match='nothing'):
        element.to_dict()['nothing']
    assert 'data' in element.to_dict() and 'data' in element and list(element.to_dict()) == ['data']
    assert 'tensor' in repr(element)


def test_elements_beside_the_logits():
    element = LazyLogits(StoredMap(torch.randn(3, 9, 8)))
    element.more = torch.zeros(1, 9, 8)
    with pytest.raises(AssertionError, match='not consistent'):
        element.other = torch.zeros(1, 8, 8)
    assert isinstance(LazyLogits(), PixelData) and LazyLogits().shape is None


def test_test_time_augmentation():
    x = torch.randn(1, 3, 62, 85)
    merged = []
    for model in pair():
        tta = SegTTAModel(module=model)
        with torch.inference_mode():
            views = [
                model.predict(x, samples(1, ori_shape=(62, 85)))[0],
                model.predict(x.flip(3), samples(1, ori_shape=(62, 85), flip=True, flip_direction='horizontal'))[0],
            ]
            merged.append(tta.merge_preds([views])[0].pred_sem_seg.data)
    assert torch.equal(*merged)


def test_errors():
    _, ours = pair(test_cfg=dict(mode='lean'))
    with pytest.raises(ValueError, match="mode='lean'"):
        ours.predict(torch.randn(1, 3, 62, 85))
    _, ours = pair()
    with pytest.raises(ValueError, match="flip_direction='diagonal'"):
        ours.predict(torch.randn(1, 3, 62, 85), samples(1, ori_shape=(62, 85), flip=True, flip_direction='diagonal'))


def test_is_registered():
    assert MODELS.get('densevit.EncoderDecoder') is encoder_decoder.EncoderDecoder


def test_lazy_logits_can_be_taken_out_and_replaced():
    stored = torch.randn(3, 4, 5)
    lazy = LazyLogits(StoredMap(stored)).to_dict()
    assert torch.equal(lazy.pop('data'), stored) and 'data' not in lazy
    lazy = LazyLogits(StoredMap(stored)).to_dict()
    lazy['data'] = 1
    assert lazy['data'] == 1 and dict(lazy) == {'data': 1}
    logits = LazyLogits(StoredMap(stored))
    assert torch.equal(logits.pop('data'), stored) and 'data' not in logits
    logits = LazyLogits(StoredMap(stored))
    del logits.data
    assert 'data' not in logits
