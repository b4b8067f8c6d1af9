"""The classifier: golden outputs, official weights, and attention that explains the logits."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from densevit import ImageClassifier
from densevit.backbones.patchconvnet import PatchConvNet
from densevit.checkpoints import load_weights
from tests.backbones.contract import assert_trains, fill, images
from tests.reference import assert_summary, filled_state_dict, golden_input

TINY = dict(type='densevit.PatchConvNet', arch=dict(embed_dims=32, depth=2))
POOLS = ('learned', 'learned_multi', 'average')
PARAMETERS = {  # README and measurement of the official code
    'S60': 25_231_096, 'S120': 47_723_896, 'B60': 99_388_936, 'B120': 188_611_336, 'L60': 176_009_576,
    'L120': 334_294_376, 'S60_multi': 25_614_712,
}  # fmt: skip


def build(pool: str = 'learned', num_classes: int = 7, **backbone) -> ImageClassifier:
    return fill(ImageClassifier(dict(TINY, **backbone), pool, num_classes))


def test_golden_outputs(shared_facts):
    golden = json.loads((shared_facts / 'golden_outputs.json').read_text())['patchconvnet_S60']
    shapes = json.loads((shared_facts / 'manifests/patchconvnet_S60.json').read_text())
    features = golden['features']
    model = ImageClassifier(dict(type='densevit.PatchConvNet', arch='S60')).double().eval()
    report = load_weights(model, filled_state_dict(shapes))
    assert len(report.loaded) == len(shapes) == 807
    assert not report.skipped

    pooled: list[Tensor] = []
    model.pool.norm.register_forward_pre_hook(lambda module, args: pooled.append(args[0]))
    x = golden_input(golden['input'])
    with torch.no_grad():
        logits, aggregate = model.explain(x)
        again = model(x)
    for each in (logits, again):
        assert_summary(each, golden['logits'], 1e-9)
        assert each[0].topk(5).indices.tolist() == golden['top5']
    assert_summary(aggregate.scores, features['blocks_token_only.0.attn.id'], 1e-9)
    assert_summary(pooled[0], features['blocks_token_only.0'], 1e-9)
    # the official norm runs over class token and patches; the token, which comes first, is what both have
    expected = torch.tensor(features['norm']['first8'], dtype=torch.float64)
    torch.testing.assert_close(aggregate.vectors[0, 0, :8], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('variant', PARAMETERS)
def test_official_names_and_shapes_fit(shared_facts, variant):
    shapes = json.loads((shared_facts / f'manifests/patchconvnet_{variant}.json').read_text())
    arch, _, multi = variant.partition('_')
    with torch.device('meta'):  # names and shapes only: L120 would take gigabytes
        model = ImageClassifier(dict(type='densevit.PatchConvNet', arch=arch), 'learned_multi' if multi else 'learned')
        official = {name: torch.empty(shape) for name, shape in shapes.items()}
    report = load_weights(model, official)
    assert set(report.loaded) == set(model.state_dict())
    assert not report.skipped
    assert report.origin == 'PatchConvNet, official'
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[variant]

    with torch.device('meta'):
        trunk = PatchConvNet(arch)
    report = load_weights(trunk, official)
    assert set(report.loaded) == set(trunk.state_dict())
    assert len(report.skipped) == len(model.state_dict()) - len(trunk.state_dict())


@pytest.mark.parametrize('pool', POOLS)
@pytest.mark.parametrize('size', [(64, 96), (67, 53), (33, 128)], ids=str)
def test_logits_at_any_size(pool, size):
    model = build(pool).train()
    logits = model(images(2, 3, *size))
    assert logits.shape == (2, 7)
    (logits * images(2, 7, seed=9)).sum().backward()
    # a bias on all keys cancels in the softmax, so its gradient is rounding noise
    assert_trains(model, {name for name, _ in model.named_parameters()} - {'pool.attn.k.bias'})


@pytest.mark.parametrize('pool', POOLS[:2])
def test_explain_is_the_forward_pass(pool):
    model, x = build(pool).eval(), images(2, 3, 67, 53)
    logits, aggregate = model.explain(x)
    torch.testing.assert_close(logits, model(x))
    positions = 5 * 4
    assert aggregate.weights.shape == ((2, 1, 1, 1 + positions) if pool == 'learned' else (2, 1, 7, positions))
    torch.testing.assert_close(aggregate.weights.sum(-1), torch.ones(aggregate.weights.shape[:-1]))
    # the logits are made of these vectors
    torch.testing.assert_close(logits, model._logits(aggregate.vectors))


def test_average_has_no_attention():
    model = build('average').eval()
    with pytest.raises(TypeError, match='AveragePool has no attention to show'):
        model.explain(images(1, 3, 67, 53))


def test_average_is_the_mean_of_normalised_positions():
    model, x = build('average').eval(), images(2, 3, 67, 53)
    m = model.backbone(x)[-1]
    normed = torch.nn.functional.layer_norm(
        m.permute(0, 2, 3, 1), (32,), model.pool.norm.weight, model.pool.norm.bias, 1e-6
    )
    torch.testing.assert_close(model(x), model.head(normed.mean(dim=(1, 2))))


def test_a_logit_of_multi_reads_its_own_class_only():
    model, x = build('learned_multi').double().eval(), images(2, 3, 67, 53).double()
    vectors = model.explain(x)[1].vectors.detach().requires_grad_()
    (jacobian,) = torch.autograd.grad(model._logits(vectors)[0, 3], vectors)
    assert jacobian[0, 3].abs().sum() > 0
    jacobian[0, 3] = 0
    assert not jacobian.any()

    before = model(x)
    with torch.no_grad():
        model.pool.cls_token[0, 3] += 1
    assert ((model(x) - before).abs() > 0).all(dim=0).tolist() == [k == 3 for k in range(7)]
    assert (model(x) - before)[:, [0, 1, 2, 4, 5, 6]].eq(0).all()


def test_the_last_map_is_the_one_that_counts():
    full = build(out_indices=(0, 1)).eval()
    alone = build(out_indices=(1,)).eval()
    x = images(1, 3, 67, 53)
    torch.testing.assert_close(full(x), alone(x))


def test_layer_scale_follows_the_variant():
    with torch.device('meta'):
        models = {arch: ImageClassifier(dict(type='densevit.PatchConvNet', arch=arch)) for arch in ('S60', 'S120')}
    assert models['S60'].backbone.layer_scale_init == 1e-4
    tiny = ImageClassifier(dict(TINY, arch=dict(embed_dims=16, depth=1, layer_scale_init=0.3)))
    assert (tiny.pool.gamma_1 == 0.3).all()
    assert (tiny.backbone.blocks[0].gamma == 0.3).all()


def test_a_built_backbone_and_a_config_are_both_taken():
    backbone = PatchConvNet(TINY['arch'])
    assert ImageClassifier(backbone).backbone is backbone
    config = dict(TINY)
    ImageClassifier(config)
    assert config == TINY


@pytest.mark.parametrize('pool', POOLS)
def test_initial_weights(pool):
    model = ImageClassifier(dict(type='densevit.PatchConvNet', arch=dict(embed_dims=128, depth=1)), pool, 50)
    for _ in range(2):
        assert 0.015 < model.head.weight.std() < 0.021
        assert not model.head.bias.any()
        model.init_weights()


def test_bad_arguments():
    with pytest.raises(ValueError, match="pool='mean' is unknown; valid are 'learned'"):
        ImageClassifier(TINY, 'mean')
    with pytest.raises(ValueError, match="did you mean 'average'"):
        ImageClassifier(TINY, 'averge')
    with pytest.raises(ValueError, match='num_classes=0'):
        ImageClassifier(TINY, 'learned_multi', 0)
    with pytest.raises(ValueError, match='did you mean'):
        ImageClassifier(dict(type='densevit.PatchConvNt'))


def test_initializing_sets_every_parameter_of_pool_and_head():
    for config in (
        dict(TINY),
        dict(type='densevit.PyramidVisionTransformer', arch=dict(embed_dims=(8, 16), depths=(1, 1), num_heads=(1, 2),
             mlp_ratios=(2, 2), sr_ratios=(2, 1))),
        dict(type='densevit.CvT', arch=dict(embed_dims=(8, 16), depths=(1, 1), num_heads=(1, 2))),
    ):  # fmt: skip
        model = ImageClassifier(config, num_classes=7)
        with torch.no_grad():
            for parameter in (*model.pool.parameters(), *model.head.parameters()):
                parameter.fill_(torch.nan)
        model.init_weights()
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_subclass_of_a_backbone_is_read_as_its_family():
    class Mine(PatchConvNet):
        pass

    assert type(ImageClassifier(Mine(TINY['arch'])).pool).__name__ == 'LearnedAggregation'
