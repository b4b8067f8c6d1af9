"""What backbones record of their attention: it makes their outputs, and asking for it changes none of them."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import Tensor, nn

from densevit.backbones.cvt import CvT
from densevit.backbones.patchconvnet import PatchConvNet
from densevit.backbones.pvt import PyramidVisionTransformer, PyramidVisionTransformerV2
from densevit.backbones.swin import SwinTransformer
from densevit.backbones.swin_v2 import SwinTransformerV2
from densevit.classifiers.image_classifier import ImageClassifier
from densevit.layers import merge_heads, split_heads
from densevit.layers.attention_layer import AttentionLayer, WindowedAttention
from densevit.layers.attention_record import AttentionRecord
from tests.backbones.contract import assert_equal, fill, gradients, images, loss_of

PYRAMID = dict(embed_dims=(8, 16, 24), depths=(1, 2, 2), num_heads=(1, 2, 3), mlp_ratios=(2, 2, 2), sr_ratios=(4, 2, 1))
COLUMNS = dict(embed_dims=(8, 16, 24), depths=(1, 1, 2), num_heads=(1, 2, 3))
WINDOWS = dict(embed_dims=8, depths=(2, 2, 1), num_heads=(1, 2, 4))
MODELS = {
    'pvt': lambda **args: PyramidVisionTransformer(PYRAMID, **args),
    'pvt_v2': lambda **args: PyramidVisionTransformerV2(PYRAMID, **args),
    'pvt_v2_linear': lambda **args: PyramidVisionTransformerV2(dict(PYRAMID, linear=True), **args),
    'swin': lambda **args: SwinTransformer(WINDOWS, window_size=3, **args),
    'swin_v2': lambda **args: SwinTransformerV2(WINDOWS, window_size=4, **args),
    'cvt': lambda **args: CvT(COLUMNS, **args),
}
SIZES = [(64, 96), (33, 128)]
every = pytest.mark.parametrize('family', MODELS)
at_sizes = pytest.mark.parametrize('size', SIZES, ids=str)


def build(family: str, **args) -> nn.Module:
    return fill(MODELS[family](**{'out_indices': (0, 1, 2), **args})).eval()


def values_and_mixtures(model: nn.Module, record: AttentionRecord, x: Tensor) -> dict[str, list[Tensor]]:
    """By layer, the values, and what the last projection of its attention was given, both from another pass."""
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for name, attn, _ in model.attention_layers():
        kept = seen.setdefault(name, [])
        source = next(getattr(attn, each) for each in ('proj_v', 'kv', 'qkv') if hasattr(attn, each))
        handles.append(source.register_forward_hook(lambda module, args, out, kept=kept: kept.append(out)))
        handles.append(attn.proj.register_forward_pre_hook(lambda module, args, kept=kept: kept.append(args[0])))
    model(x)
    for handle in handles:
        handle.remove()
    return seen


@every
@at_sizes
def test_weights_times_values_are_what_the_layer_makes(family, size):
    model, x = build(family).double(), images(2, 3, *size).double()
    with torch.no_grad(), model.record_attention() as record:
        model(x)
    assert list(record) == [name for name, _, _ in model.attention_layers()]
    with torch.no_grad():
        seen = values_and_mixtures(model, record, x)
    for name, attn, _ in model.attention_layers():
        layer, (*projected, mixed) = record[name], seen[name]
        weights = layer.weights()
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]).double(), rtol=0, atol=1e-12)
        if isinstance(layer, WindowedAttention):
            # without its bias of values a padded token has the value 0
            channels = mixed.shape[-1]
            bias = attn.v_bias if hasattr(attn, 'v_bias') else attn.qkv.bias[-channels:]
            if hasattr(attn, 'v_bias'):
                inputs = attn_inputs(model, name, x)
                values = torch.nn.functional.linear(inputs, attn.qkv.weight[-channels:], bias)
            else:
                values = projected[0][..., -channels:]
            windows = layer.layout.cut(values, padding=bias)
            found = layer.layout.join(merge_heads(weights @ split_heads(windows, layer.num_heads)), mixed.shape[:3])
        else:
            values = projected[0].flatten(1, -2)[..., -mixed.shape[-1] :]
            found = merge_heads(weights @ split_heads(values, layer.num_heads))
        torch.testing.assert_close(found, mixed.view_as(found), rtol=0, atol=1e-12)


def attn_inputs(model: nn.Module, name: str, x: Tensor) -> Tensor:
    """What an attention module is given."""
    module = next(each for other, each, _ in model.attention_layers() if other == name)
    kept: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    model(x)
    handle.remove()
    return kept[0]


@every
@at_sizes
@pytest.mark.parametrize('train', [False, True], ids=['eval', 'train'])
def test_outputs_and_gradients_stay_the_same_to_the_bit(family, size, train):
    model, x = build(family, drop_path_rate=0.2).train(train), images(2, 3, *size)
    twin = copy.deepcopy(model)
    torch.manual_seed(3)
    expected = model(x)
    loss_of(expected).backward()
    torch.manual_seed(3)
    with twin.record_attention() as record:
        found = twin(x)
        loss_of(found).backward()
    assert_equal(found, expected)
    assert_equal(tuple(gradients(twin).values()), tuple(gradients(model).values()))
    assert_equal(tuple(twin.buffers()), tuple(model.buffers()))
    assert not any(layer.received().map.requires_grad for layer in record.values())


@every
def test_inference_stays_the_same_to_the_bit_and_keeps_no_recorder(family):
    model = build(family)
    for x in (images(2, 3, 33, 128), images(1, 3, 96, 65)):
        with torch.inference_mode():
            expected = model(x)
            with model.record_attention() as record:
                assert_equal(model(x), expected)
            assert_equal(model(x), expected)
        for layer in record.values():
            found, rest = layer.received()
            torch.testing.assert_close(found.sum((-2, -1)) + rest, torch.ones_like(rest), rtol=0, atol=1e-5)
    assert all('recorder' not in vars(module) for module in model.modules())


@every
def test_grids(family):
    """Sizes of maps, and the pixels that they cover."""
    model = build(family)
    with torch.no_grad(), model.record_attention() as record:
        maps = model(images(1, 3, 75, 130))
    for stage, (layers, m) in enumerate(zip(record.stages().values(), maps, strict=True)):
        for layer in layers:
            assert layer.name.startswith(f'stages.{stage}.')
            assert layer.query_size == tuple(m.shape[2:])
            assert layer.stride == model.out_strides[stage]
            assert layer.received().map.shape == (1, layer.num_heads, *layer.key_size)
            for extent, side in zip(layer.key_extent, (75, 130), strict=True):
                # at most a remainder is left out, at most a row or column of patches is padded
                step = layer.stride * max(layer.key_step)
                assert side - step < extent < side + step


def test_pvt_kinds():
    model = build('pvt')
    with torch.no_grad(), model.record_attention() as record:
        model(images(1, 3, 64, 96))
    sizes = {name: (layer.key_size, layer.key_step, layer.is_square) for name, layer in record.items()}
    assert sizes['stages.0.blocks.0'] == ((4, 6), (4, 4), False)
    assert sizes['stages.1.blocks.1'] == ((4, 6), (2, 2), False)
    assert sizes['stages.2.blocks.1'] == ((4, 6), (1, 1), True)


def test_a_pooled_map():
    with torch.no_grad(), (model := build('pvt_v2_linear')).record_attention() as record:
        model(images(1, 3, 64, 112))
    layer = record['stages.0.blocks.0']
    assert layer.key_size == (7, 7)
    assert layer.key_extent == (64, 112)
    assert not layer.is_square


def test_cvt_has_a_class_token_in_its_last_stage():
    with torch.no_grad(), (model := build('cvt')).record_attention() as record:
        model(images(2, 3, 64, 100))
    extra = {name: (layer.num_extra_queries, layer.num_extra_keys) for name, layer in record.items()}
    assert extra == {
        'stages.0.blocks.0': (0, 0), 'stages.1.blocks.0': (0, 0), 'stages.2.blocks.0': (1, 1),
        'stages.2.blocks.1': (1, 1),
    }  # fmt: skip
    found, rest = record['stages.2.blocks.1'].map_of(0)  # what the class token attends to
    assert found.shape == (2, 3, 2, 4)
    assert (rest > 0).all()
    torch.testing.assert_close(found.sum((-2, -1)) + rest, torch.ones(2, 3), rtol=0, atol=1e-6)


@pytest.mark.parametrize(('family', 'defined'), [('pvt', [2]), ('pvt_v2', [2]), ('swin', [0, 1, 2]), ('cvt', [])])
def test_rollout_where_it_is_defined(family, defined):
    with torch.no_grad(), (model := build(family)).record_attention() as record:
        maps = model(images(2, 3, 64, 100))
    for stage, m in enumerate(maps):
        if stage in defined:
            for query in (None, (1, 2)):
                found, rest = record.rollout(f'stages.{stage}', query)
                assert found.shape == (2, 1, *m.shape[2:])
                torch.testing.assert_close(found.sum((-2, -1)) + rest, torch.ones(2, 1), rtol=0, atol=1e-5)
        else:
            with pytest.raises(ValueError, match=rf'no rollout is defined for stages.{stage}: .* reduced by'):
                record.rollout(f'stages.{stage}')


def test_padding_of_windows_gets_its_share():
    with torch.no_grad(), (model := build('swin')).record_attention() as record:
        model(images(1, 3, 33, 128))  # 9 x 32 tokens in windows of 3 x 3: columns are padded
    layer = record['stages.0.blocks.0']
    assert (layer.map_of((0, 31)).rest > 0).all()
    assert (layer.map_of((0, 0)).rest == 0).all()


@every
def test_recomputed_blocks_are_recorded_once(family):
    model, x = build(family, with_cp=True).train(), images(2, 3, 64, 96)
    with model.record_attention() as record:
        maps = model(x)
        before = {name: layer.received().map for name, layer in record.items()}
        loss_of(maps).backward()
    for name, layer in record.items():
        torch.testing.assert_close(layer.received().map, before[name], rtol=0, atol=1e-6)


def test_only_the_model_that_is_asked_records():
    """Also from a thread of its own: recorders stand in the modules of one model."""
    model = build('swin')
    other, x = copy.deepcopy(model), images(1, 3, 64, 96)
    with torch.no_grad(), model.record_attention('stages.2.*') as record:
        expected = other(x)
        assert not len(record)
        results: list[tuple[Tensor, ...]] = []
        thread = threading.Thread(target=lambda: results.append(other(x)))
        thread.start()
        assert_equal(model(x), expected)
        thread.join()
    assert_equal(tuple(each.detach() for each in results[0]), expected)
    assert list(record) == ['stages.2.blocks.0']


@every
def test_a_classifier_records_its_backbone(family):
    classifier = fill(ImageClassifier(MODELS[family](out_indices=(-1,)), num_classes=5)).eval()
    x = images(2, 3, 64, 96)
    with torch.no_grad():
        expected = classifier(x)
        with classifier.record_attention() as record:
            assert torch.equal(classifier(x), expected)
    assert list(record) == [name for name, _, _ in classifier.backbone.attention_layers()]
    last = list(record.values())[-1]
    if family == 'pvt':  # its class token joins the last stage
        assert (last.query_size, last.key_size, last.num_extra_queries) == ((4, 6), (4, 6), 1)
        found, rest = record.rollout('stages.2', 0)
        assert found.shape == (2, 1, 4, 6)
        assert (rest > 0.25).all()  # what stays at the class token over two layers, and more
    assert all(layer.num_extra_queries == (family in ('pvt', 'cvt')) for layer in record.stages()['stages.2'])


@pytest.mark.parametrize('pool', ['learned', 'learned_multi'])
def test_learned_aggregation_records_what_explain_gives(pool):
    backbone = dict(type='densevit.PatchConvNet', arch=dict(embed_dims=16, depth=2))
    model = fill(ImageClassifier(backbone, pool, 5)).double().eval()
    x = images(2, 3, 67, 53).double()
    with torch.no_grad():
        expected, aggregate = model(x), model.explain(x)[1]
        with model.record_attention() as record:
            assert torch.equal(model(x), expected)
    layer: AttentionLayer = record['pool']
    torch.testing.assert_close(layer.weights(), aggregate.weights, rtol=0, atol=1e-13)
    assert (layer.key_size, layer.stride, layer.query_size) == ((5, 4), 16, None)
    assert layer.num_extra_keys == (pool == 'learned')


@pytest.mark.parametrize('family', ['swin', 'swin_v2'])
def test_windows_that_are_computed_in_portions(family, monkeypatch):
    model, x = build(family), images(2, 3, 33, 128)
    with torch.no_grad():
        with model.record_attention() as whole:
            model(x)
        monkeypatch.setattr('densevit.layers.pieces.NUMBERS', 5000)
        expected = model(x)
        with model.record_attention() as record:
            assert_equal(model(x), expected)
    for name, layer in record.items():
        for found, wanted in zip(layer.received(), whole[name].received(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_a_compiled_model_records_and_a_traced_one_refuses():
    model, x = build('swin', out_indices=(0,)), images(1, 3, 64, 96)
    with torch.no_grad():
        compiled = torch.compile(model, backend='eager', fullgraph=True)
        expected = compiled(x)
        with compiled.record_attention() as record:
            torch.testing.assert_close(compiled(x), expected)
        torch.testing.assert_close(compiled(x), expected)
        assert list(record) == [name for name, _, _ in model.attention_layers()]
        with model.record_attention(), pytest.raises(RuntimeError, match='stages.0.blocks.0: the model is traced'):
            torch.jit.trace(model, x)
        with model.record_attention(), pytest.raises(RuntimeError, match='exported or transformed while its attention'):
            torch.export.export(model, (x,))


def test_what_cannot_be_recorded():
    with pytest.raises(ValueError, match='PatchConvNet has no attention layer to record'):
        PatchConvNet(dict(embed_dims=16, depth=1)).record_attention().__enter__()
    with pytest.raises(ValueError, match=r"no attention layer 'layers.0'.* It has stages.0.blocks.0 to"):
        build('swin').record_attention('layers.0').__enter__()
