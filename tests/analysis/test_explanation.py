"""The map of an explanation is that of the forward pass: against golden scores, and by what it makes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from densevit import ImageClassifier
from densevit.analysis.explanation import explain_dense, explain_image, map_numbers
from densevit.checkpoints import load_weights
from densevit.layers import attention_scores
from tests.backbones.contract import fill, images
from tests.reference import assert_summary, filled_state_dict, golden_input

TINY = dict(type='densevit.PatchConvNet', arch=dict(embed_dims=16, depth=2))


def build(pool: str) -> ImageClassifier:
    return fill(ImageClassifier(TINY, pool, 5)).double().eval()


def test_golden_scores(shared_facts):
    golden = json.loads((shared_facts / 'golden_outputs.json').read_text())['patchconvnet_S60']
    shapes = json.loads((shared_facts / 'manifests/patchconvnet_S60.json').read_text())
    model = ImageClassifier(dict(type='densevit.PatchConvNet', arch='S60')).double().eval()
    load_weights(model, filled_state_dict(shapes))
    image = golden_input(golden['input'])
    found = explain_image(model, image[0], top_k=5)
    assert [each.index for each in found.top] == golden['top5']

    with torch.no_grad(), model.record_attention('pool') as record:
        model(image)
    layer, summary = record['pool'], golden['features']['blocks_token_only.0.attn.id']
    scores = attention_scores(layer.q, layer.k, scale=layer.scale)  # (1, 1, 1, 1 + 6 * 6)
    assert_summary(scores, summary, 1e-9)
    row = scores.softmax(-1).flatten()
    assert found.top[0].map.shape == (6, 6)
    np.testing.assert_allclose(found.top[0].map.flatten(), row[1:], rtol=1e-12)
    assert found.top[0].on_class_token == pytest.approx(row[0].item(), abs=1e-12)
    # the class token of these weights has it all, so look at them as if their scores were smaller
    layer.scale = layer.q.shape[-1] ** -0.5 / 200
    seen, rest = layer.map_of(0)
    logs = torch.cat([rest.flatten(), seen.flatten()]).log()[:8] * 200
    first = torch.tensor(summary['first8'], dtype=torch.float64)
    torch.testing.assert_close(logs - logs[0], first - first[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('pool', ['learned', 'learned_multi'])
def test_the_map_is_the_one_that_made_the_logit(pool):
    """Vectors that are mixed again by the map, outside of the attention, give the same logits."""
    model, image = build(pool), images(3, 67, 53).double()
    found = explain_image(model, image, top_k=5)
    assert found.per_class == (pool == 'learned_multi')
    assert found.extent == (5 * 16, 4 * 16)
    aggregation = model.pool
    with torch.no_grad():
        patches = model.backbone(image[None])[-1].flatten(2).transpose(1, 2)
        logits = model(image[None])[0]
        for shown in found.top:
            index = shown.index if found.per_class else 0
            query = aggregation.cls_token[:, index : index + 1]
            row = torch.from_numpy(shown.map).flatten()
            tokens = patches
            if not found.per_class:
                row, tokens = torch.cat([row.new_tensor([shown.on_class_token]), row]), torch.cat([query, patches], 1)
            mixed = row @ aggregation.attn.v(aggregation.norm1(tokens))[0]
            vector = query + aggregation.gamma_1 * aggregation.attn.proj(mixed)
            vector = aggregation.norm(vector + aggregation.gamma_2 * aggregation.mlp(aggregation.norm2(vector)))
            logit = (vector[0, 0] * model.head.weight[shown.index]).sum() + model.head.bias[shown.index]
            assert logit.item() == pytest.approx(logits[shown.index].item(), abs=1e-12)
            assert shown.logit == logits[shown.index].item()
            assert shown.probability == pytest.approx(logits.softmax(0)[shown.index].item())
            assert shown.map.sum() + shown.on_class_token == pytest.approx(1, abs=1e-12)
            assert (shown.on_class_token == 0) == found.per_class


def test_best_and_chosen_classes():
    model, image = build('learned_multi'), images(3, 64, 96).double()
    order = model(image[None])[0].argsort(descending=True).tolist()
    assert [each.index for each in explain_image(model, image, 3).chosen] == order[:3]
    assert len(explain_image(model, image, 99).top) == 5
    found = explain_image(model, image, 1, classes=[4, 0])
    assert [each.index for each in found.chosen] == [4, 0]
    assert [each.index for each in found.top] == order[:1]
    assert not np.allclose(found.chosen[0].map, found.chosen[1].map)


def test_no_gradient_and_no_trace_of_the_recording():
    model = build('learned')
    explain_image(model, images(3, 64, 96).double())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert 'recorder' not in vars(model.pool.attn)


def test_a_pool_without_attention():
    with pytest.raises(TypeError, match="AveragePool has no attention to show; take pool='learned'"):
        explain_image(build('average'), images(3, 64, 96).double())


def test_logits_of_saturated_presence_are_finite():
    presence = torch.tensor([0.0, 0.25, 1.0])
    edges = SimpleNamespace(rows=torch.tensor([0.0, 16, 32]), columns=torch.tensor([0.0, 16, 32, 40]))
    seen = SimpleNamespace(presence=presence, maps=torch.full((3, 2, 3), 1 / 6), ori_shape=(32, 40), **vars(edges))
    model = SimpleNamespace(test_step=lambda batch: [SimpleNamespace(class_attention=seen)])
    found = explain_dense(model, dict(inputs=[torch.zeros(3, 32, 40)]), classes=[0, 1, 2])
    assert [each.probability for each in found.chosen] == [0, 0.25, 1]
    assert np.isfinite([each.logit for each in found.chosen]).all()
    assert found.chosen[1].logit == pytest.approx(-np.log(3))
    assert found.chosen[2].logit == pytest.approx(25 * np.log(2))


def test_numbers():
    even = map_numbers(np.full((4, 8), 0.5 / 32, np.float32), 0.5)
    assert even['entropy_bits'] == pytest.approx(5) == even['even_attention_bits']
    assert even['on_patches'] == pytest.approx(0.5)
    assert even['on_class_token'] == 0.5
    single = np.zeros((4, 8))
    single[2, 3] = 1
    found = map_numbers(single, 0.0, 'rest')
    assert (found['entropy_bits'], found['highest_patch'], found['highest_weight']) == (0, [2, 3], 1)
    nothing = map_numbers(np.zeros((4, 8), np.float32), 1.0)  # the class token has it all
    assert nothing['entropy_bits'] == 0
