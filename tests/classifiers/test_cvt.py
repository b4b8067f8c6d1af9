"""CvT as a classifier: golden outputs, official names, transformers' logits, and a class token alone in the head."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from densevit import CvT, ImageClassifier
from densevit.checkpoints import load_weights
from tests.backbones.contract import assert_trains, fill, gradients, images
from tests.backbones.test_cvt import ARCH, peer
from tests.reference import assert_summary, filled_state_dict, golden_input


def build(num_classes: int = 5, **options) -> ImageClassifier:
    return fill(ImageClassifier(dict(type='densevit.CvT', arch=ARCH, **options), num_classes=num_classes))


@pytest.mark.parametrize('backend', ['reference', 'sdpa'])
def test_golden_outputs(shared_facts, backend):
    golden = json.loads((shared_facts / 'golden_outputs.json').read_text())['cvt_13_224']
    shapes = json.loads((shared_facts / 'manifests/cvt_13_224.json').read_text())
    # official files have BatchNorm's counters, the fill rule leaves them out
    tensors = filled_state_dict({name: shape for name, shape in shapes.items() if not name.endswith('tracked')})
    tensors |= {name: torch.tensor(0) for name in shapes if name.endswith('tracked')}
    model = ImageClassifier(dict(type='densevit.CvT', arch='13', attn_backend=backend)).eval()
    report = load_weights(model, tensors)
    assert len(report.loaded) == len(shapes) == 459
    assert not report.skipped

    seen: dict[str, Tensor] = {}
    model.pool.norm.register_forward_hook(lambda module, args, output: seen.update(norm=output))
    with torch.no_grad():
        logits = model(golden_input(golden['input']).float())
    assert_summary(logits, golden['logits'], 1e-5)  # recorded in float32
    assert logits[0].topk(5).indices.tolist() == golden['top5']
    assert_summary(seen['norm'], golden['features']['norm'], 1e-5)


@pytest.mark.parametrize(('variant', 'arch', 'parameters'), [
    ('13_224', '13', 19_997_480), ('21_224', '21', 31_622_696), ('w24_384', 'W24', 277_196_392),
])  # fmt: skip
def test_official_names_and_shapes_fit(shared_facts, variant, arch, parameters):
    shapes = json.loads((shared_facts / f'manifests/cvt_{variant}.json').read_text())
    with torch.device('meta'):  # names and shapes only
        model = ImageClassifier(dict(type='densevit.CvT', arch=arch))
        trunk = CvT(arch)
        official = {name: torch.empty(shape) for name, shape in shapes.items()}
    report = load_weights(model, official)
    assert report.origin == 'CvT, official'
    assert set(report.loaded) == set(model.state_dict())
    assert len(report.loaded) == len(shapes)
    assert report.skipped == report.kept == ()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters

    report = load_weights(trunk, official)
    assert set(report.loaded) == set(trunk.state_dict())
    assert set(report.skipped) == {'pool.norm.weight', 'pool.norm.bias', 'head.weight', 'head.bias'}


@pytest.mark.parametrize('size', [(64, 96), (67, 53), (33, 128)], ids=str)
def test_equals_transformers(size):
    theirs = peer().double().eval()
    ours = ImageClassifier(dict(type='densevit.CvT', arch=ARCH), num_classes=5).double().eval()
    load_weights(ours, theirs.state_dict())
    results = []
    for model in (ours, lambda x: theirs(x).logits):
        x = images(2, 3, *size).double().requires_grad_()
        logits = model(x)
        (logits * images(2, 5, seed=9)).sum().backward()
        results.append((logits, x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('size', [(64, 96), (67, 53), (33, 128)], ids=str)
def test_logits_at_any_size(size):
    model = build().train()
    logits = model(images(2, 3, *size))
    assert logits.shape == (2, 5)
    (logits * images(2, 5, seed=9)).sum().backward()
    # only the class token is read, so the last block's convolution of the patches' queries is computed for nothing
    unread = {name for name in gradients(model) if 'stage2.blocks.2.attn.conv_proj_q.' in name}
    assert len(unread) == 3
    assert not any(gradients(model)[name].any() for name in unread)
    assert_trains(model, set(gradients(model)) - unread)


def test_a_single_image_keeps_its_batch_axis():
    """The official classifier squeezes all axes of length one away, the batch's too."""
    model, x = build().eval(), images(2, 3, 67, 53)
    with torch.no_grad():
        assert model(x[:1]).shape == (1, 5)
        torch.testing.assert_close(model(x[:1]), model(x)[:1])
        assert build(num_classes=1).eval()(x[:1]).shape == (1, 1)


def test_logits_are_of_the_normed_class_token():
    model, x = build().eval(), images(2, 3, 67, 53)
    token = model.backbone.class_token(x)
    assert token.shape == (2, 1, 24)
    assert model.pool.norm.eps == 1e-5
    normed = nn.functional.layer_norm(token[:, 0], (24,), model.pool.norm.weight, model.pool.norm.bias, 1e-5)
    torch.testing.assert_close(model(x), normed @ model.head.weight.T + model.head.bias)


def test_the_average_of_the_map_instead():
    model = fill(ImageClassifier(dict(type='densevit.CvT', arch=ARCH), 'average', 5)).train()
    logits = model(images(2, 3, 67, 53))
    (logits * images(2, 5, seed=9)).sum().backward()
    assert_trains(model)


def test_the_last_stage_must_be_there():
    model = build(out_indices=(0,))
    with pytest.raises(ValueError, match=r'out_indices=\(0,\).*name it too'):
        model(images(1, 3, 64, 96))
