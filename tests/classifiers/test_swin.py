"""Swin as a classifier: golden outputs, timm's logits, and the windows of small maps."""

from __future__ import annotations

import copy
import json
import pickle
import re

import pytest
import torch
from torch import Tensor, nn

from densevit.backbones.swin import SwinTransformer
from densevit.backbones.swin_v2 import SwinTransformerV2
from densevit.checkpoints import export_weights, load_weights
from densevit.checkpoints.swin import is_derived
from densevit.classifiers.image_classifier import ImageClassifier
from densevit.classifiers.swin import shrinking_windows
from tests.backbones.contract import assert_trains, fill, images
from tests.reference import assert_summary, filled_state_dict, golden_input

ARCH = dict(embed_dims=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4))
KINDS = {'v1': SwinTransformer, 'v2': SwinTransformerV2}


def classifier(kind: str, window_size: int = 4, **backbone) -> ImageClassifier:
    config = dict(type=f'densevit.{KINDS[kind].__name__}', arch=ARCH, window_size=window_size, **backbone)
    return fill(ImageClassifier(config, num_classes=7))


def official_weights(shared_facts, variant: str) -> dict[str, Tensor]:
    shapes = json.loads((shared_facts / f'manifests/{variant}.json').read_text())
    return filled_state_dict({name: shape for name, shape in shapes.items() if not is_derived(name)})


def outputs_of(backbone: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """Filled by the next forward pass: the tokens (B, L, C) behind each named module."""
    seen: dict[str, Tensor] = {}
    for name in names:
        backbone.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output.flatten(1, 2)})
        )
    return seen


def test_golden_outputs(shared_facts):
    golden = json.loads((shared_facts / 'golden_outputs.json').read_text())['swin_tiny_patch4_window7_224']
    model = ImageClassifier(dict(type='densevit.SwinTransformer', arch='T', window_size=7)).double().eval()
    load_weights(model, official_weights(shared_facts, 'swin_tiny_patch4_window7_224'))
    names = [name for name in golden['features'] if name != 'norm']
    assert len(names) == 6
    seen = outputs_of(model.backbone, names)
    model.pool.norm.register_forward_hook(lambda module, args, output: seen.update(norm=output))
    with torch.no_grad():
        logits = model(golden_input(golden['input']))
    assert_summary(logits, golden['logits'], 1e-9)
    assert logits[0].topk(5).indices.tolist() == golden['top5']
    for name, summary in golden['features'].items():
        assert_summary(seen[name], summary, 1e-9)


def test_dense_model_is_another_in_the_last_stage_only(shared_facts):
    """By design: the dense code shifts the windows there, the classification code does not."""
    golden = json.loads((shared_facts / 'golden_outputs.json').read_text())['swin_tiny_patch4_window7_224']
    model = SwinTransformer('T').double().eval()
    load_weights(model, official_weights(shared_facts, 'swin_tiny_patch4_window7_224'))
    seen = outputs_of(model, [name for name in golden['features'] if name != 'norm'])
    with torch.no_grad():
        model(golden_input(golden['input']))
    last = seen.pop('layers.3.blocks.1')
    for name, tensor in seen.items():
        assert_summary(tensor, golden['features'][name], 1e-9)
    difference = last[0, 0, :8] - torch.tensor(golden['features']['layers.3.blocks.1']['first8'])
    assert difference.abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------------- timm
def test_v2_tiny_equals_timm(shared_facts):
    swin = pytest.importorskip('timm.models.swin_transformer_v2')
    weights = official_weights(shared_facts, 'swinv2_tiny_patch4_window8_256')
    peer = swin.SwinTransformerV2(img_size=256, window_size=8).double().eval()
    peer.load_state_dict(export_weights(weights, 'timm'))
    model = ImageClassifier(dict(type='densevit.SwinTransformerV2', arch='T', window_size=8)).double().eval()
    load_weights(model, weights)
    x = golden_input([1, 3, 256, 256])
    with torch.no_grad():
        torch.testing.assert_close(model(x), peer(x), rtol=1e-9, atol=1e-10)


def timm_logits(kind: str, model: ImageClassifier, x: Tensor, size: tuple[int, int], pretrained: tuple = ()) -> Tensor:
    """What timm's classifier, built for ``size``, makes of the weights of ours."""
    name = dict(v1='swin_transformer', v2='swin_transformer_v2')[kind]
    module = pytest.importorskip(f'timm.models.{name}')
    peer = getattr(module, KINDS[kind].__name__)(
        img_size=size, embed_dim=ARCH['embed_dims'], depths=ARCH['depths'], num_heads=ARCH['num_heads'],
        window_size=model.backbone.window_size, num_classes=7,
        **(dict(pretrained_window_sizes=pretrained) if pretrained else {}),
    ).double().eval()  # fmt: skip
    weights = export_weights(model, 'timm')
    for name, tensor in peer.state_dict().items():
        if name.endswith('bias_table') and tensor.shape != weights[name].shape:
            before, after = (int(len(table) ** 0.5) for table in (weights[name], tensor))
            middle = slice((before - after) // 2, (before + after) // 2)
            weights[name] = weights[name].unflatten(0, (before, before))[middle, middle].flatten(0, 1)
    peer.load_state_dict(weights)
    return peer(x)


# Maps of 64 x 64 pixels are 16, 8, 4 and 2 tokens wide: with window 4 the third is one window, the last is smaller.
@pytest.mark.parametrize(
    ('size', 'window_size'), [((64, 64), 4), ((32, 32), 4), ((128, 192), 2), ((192, 128), 2)], ids=str
)
@pytest.mark.parametrize('kind', KINDS)
def test_equals_timm(kind, size, window_size):
    model = classifier(kind, window_size).double().eval()
    x = images(2, 3, *size).double().requires_grad_()
    results = []
    for logits in (model(x), timm_logits(kind, model, x, size)):
        (gradient,) = torch.autograd.grad((logits * images(2, 7, seed=3).double()).sum(), x)
        results.append((logits, gradient))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-11)


def test_v2_equals_timm_with_other_windows_before():
    pretrained = (3, 3, 3, 2)
    model = classifier('v2', pretrained_window_sizes=pretrained).double().eval()
    x = images(2, 3, 64, 64).double()
    with torch.no_grad():
        torch.testing.assert_close(model(x), timm_logits('v2', model, x, (64, 64), pretrained), rtol=1e-9, atol=1e-11)
        assert (model(x) - classifier('v2').double().eval()(x)).abs().max() > 1e-3


@pytest.mark.parametrize('kind', KINDS)
def test_timm_judges_each_side_of_a_map_alone(kind):
    """A last map of 4 x 8 it shifts sideways, while officially the smaller side decides for both."""
    model = classifier(kind).double().eval()
    x = images(1, 3, 128, 256).double()
    with torch.no_grad():
        assert (model(x) - timm_logits(kind, model, x, (128, 256))).abs().max() > 1e-3


# -------------------------------------------------------------------------------------------------- the rules
@pytest.mark.parametrize(
    ('size', 'window_size', 'even', 'odd'),
    [
        ((56, 56), 7, (7, 0), (7, 3)),
        ((8, 9), 7, (7, 0), (7, 3)),
        ((7, 7), 7, (7, 0), (7, 0)),
        ((7, 30), 7, (7, 0), (7, 0)),
        ((30, 5), 7, (5, 0), (5, 0)),
        ((8, 8), 16, (8, 0), (8, 0)),
        ((1, 1), 7, (1, 0), (1, 0)),
    ],
)
def test_windows_shrink_to_small_maps(size, window_size, even, odd):
    assert [shrinking_windows(size, window_size, index) for index in range(4)] == [even, odd] * 2


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(64, 96), (67, 53), (33, 128), (5, 9)], ids=str)
def test_logits_at_any_size(kind, size):
    model = classifier(kind).train()
    (model(images(2, 3, *size)) * images(2, 7, seed=9)).sum().backward()
    if min(size) > 32:
        assert_trains(model)
    alone, together = model.double().eval(), images(3, 3, *size).double()
    with torch.no_grad():
        assert alone(together).isfinite().all()
        torch.testing.assert_close(alone(together), torch.cat([alone(x[None]) for x in together]))


@pytest.mark.parametrize('kind', KINDS)
def test_the_pool_has_the_only_norm_of_the_last_map(kind):
    model = classifier(kind, out_indices=(1, 3), frozen_stages=4)
    names = set(model.state_dict())
    assert not any(re.match(r'backbone\.norm\d', name) for name in names)
    assert {'pool.norm.weight', 'pool.norm.bias'} <= names
    assert model.pool.norm.eps == 1e-5
    assert all(not p.requires_grad for p in model.backbone.parameters())
    assert model.backbone.is_unbuilt('norm3.weight')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=['copy', 'pickle'])
def test_copies_keep_the_rules(kind, duplicate):
    model, x = classifier(kind).eval(), images(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(duplicate(model)(x), model(x), rtol=0, atol=0)
        model.backbone.window_rule = KINDS[kind](ARCH).window_rule
        assert not torch.allclose(duplicate(model)(x), classifier(kind).eval()(x))


@pytest.mark.parametrize('kind', KINDS)
def test_a_dense_model_beside_it_stays_dense(kind):
    dense = fill(KINDS[kind](ARCH)).eval()
    x = images(1, 3, 33, 70)
    with torch.no_grad():
        before = dense(x)
        classifier(kind).eval()(x)
        torch.testing.assert_close(dense(x), before, rtol=0, atol=0)
