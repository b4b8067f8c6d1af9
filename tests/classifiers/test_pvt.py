"""PVT and PVT v2 as classifiers: golden outputs, official names, and the class token of v1."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit import ImageClassifier, PyramidVisionTransformer, PyramidVisionTransformerV2
from densevit.checkpoints import load_weights
from densevit.classifiers.pools import AveragePool, LateClassToken
from densevit.layers import to_nchw
from tests.backbones.contract import assert_trains, fill, images
from tests.reference import assert_summary, filled_state_dict, golden_input

ARCH = dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 2), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))
V1 = dict(type='densevit.PyramidVisionTransformer', arch=ARCH)
V2 = dict(type='densevit.PyramidVisionTransformerV2', arch=ARCH)
MANIFESTS = {f'pvt_{arch}': (PyramidVisionTransformer, arch) for arch in PyramidVisionTransformer.ARCHS} | {
    f'pvtv2_{arch}'.replace('-', '_'): (PyramidVisionTransformerV2, arch) for arch in PyramidVisionTransformerV2.ARCHS
}


def build(backbone: dict, num_classes: int = 5, **options) -> ImageClassifier:
    return fill(ImageClassifier(dict(backbone, **options), num_classes=num_classes))


def logits_and_gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = model(x)
    (logits * images(*logits.shape, seed=9)).sum().backward()
    return logits, x.grad


@pytest.mark.parametrize('backend', ['reference', 'sdpa'])
@pytest.mark.parametrize(('variant', 'kind', 'arch'), [
    ('pvt_tiny', 'PyramidVisionTransformer', 'tiny'), ('pvtv2_b0', 'PyramidVisionTransformerV2', 'b0'),
])  # fmt: skip
def test_golden_outputs(shared_facts, variant, kind, arch, backend):
    golden = json.loads((shared_facts / 'golden_outputs.json').read_text())[variant]
    shapes = json.loads((shared_facts / f'manifests/{variant}.json').read_text())
    model = ImageClassifier(dict(type=f'densevit.{kind}', arch=arch, attn_backend=backend)).double().eval()
    report = load_weights(model, filled_state_dict(shapes))
    assert len(report.loaded) == len(shapes)
    assert report.skipped == report.kept == ()

    seen: dict[str, Tensor] = {}
    for name in golden['features']:
        if name != 'norm':
            model.backbone.get_submodule(name).register_forward_hook(
                lambda module, args, output, name=name: seen.update({name: output.flatten(1, 2)})  # (B, L, C)
            )
    with torch.no_grad():
        logits = model(golden_input(golden['input']))
    assert_summary(logits, golden['logits'], 1e-9)
    assert logits[0].topk(5).indices.tolist() == golden['top5']
    if 'norm' in golden['features']:
        # the official norm runs over class token and patches, ours over the class token
        seen['norm'] = model.pool.norm(seen['block4.1'])
    assert set(seen) == set(golden['features'])
    for name, feature in golden['features'].items():
        assert_summary(seen[name], feature, 1e-9)


@pytest.mark.parametrize('variant', MANIFESTS)
def test_official_names_and_shapes_fit(shared_facts, variant):
    cls, arch = MANIFESTS[variant]
    shapes = json.loads((shared_facts / f'manifests/{variant}.json').read_text())
    summary = json.loads((shared_facts / 'manifests/_summary.json').read_text())[variant]
    with torch.device('meta'):  # names and shapes only
        model, dense = ImageClassifier(dict(type=cls, arch=arch)), cls(arch)
        official = {name: torch.empty(shape) for name, shape in shapes.items()}
    report = load_weights(model, official)
    assert report.origin == ('PVT, official' if cls is PyramidVisionTransformer else 'PVT v2, official')
    assert set(report.loaded) == set(model.state_dict())
    assert len(report.loaded) == len(shapes) == summary['entries']
    assert report.skipped == report.kept == ()
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == sum(math.prod(shape) for shape in shapes.values()) == summary['params']

    report = load_weights(dense, official)
    assert set(report.loaded) == set(dense.state_dict())
    outside = {'head.weight', 'head.bias'}
    if cls is PyramidVisionTransformer:
        outside |= {'pool.cls_token', 'pool.norm.weight', 'pool.norm.bias'}
    assert set(report.skipped) == outside


def test_every_manifest_is_here(shared_facts):
    found = {file.stem for file in (shared_facts / 'manifests').glob('pvt*.json')}
    assert found == set(MANIFESTS)
    assert len(found) == 11


@pytest.mark.parametrize('backbone', [V1, V2, dict(V2, arch=dict(ARCH, linear=True))], ids=['v1', 'v2', 'linear'])
@pytest.mark.parametrize('size', [(64, 96), (67, 53), (33, 128)], ids=str)
def test_logits_at_any_size(backbone, size):
    model = build(backbone).train()
    logits = model(images(2, 3, *size))
    assert logits.shape == (2, 5)
    (logits * images(2, 5, seed=9)).sum().backward()
    assert_trains(model)


def test_pools_and_their_norms():
    """v1: class token, norm of eps 1e-6. v2: mean of a map that is normed already."""
    v1, v2 = build(V1), build(V2)
    assert isinstance(v1.pool, LateClassToken)
    assert v1.pool.norm.eps == 1e-6
    assert isinstance(v2.pool, AveragePool)
    assert not list(v2.pool.parameters())
    x = images(2, 3, 67, 53)
    torch.testing.assert_close(v2(x), v2.head(v2.backbone(x)[-1].mean(dim=(2, 3))))


def last_stage(model: ImageClassifier, x: Tensor) -> Tensor:
    """The class token after the last stage of PVT, as a sequence (B, 1 + L, C), step by step."""
    backbone = model.backbone
    m = x
    for index in range(3):
        m = to_nchw(backbone.forward_stage(m.permute(0, 2, 3, 1), index))
    tokens = backbone.patch_embed4.norm(backbone.patch_embed4.proj(m).flatten(2).mT)  # (B, L, C)
    size = m.shape[2] // 2, m.shape[3] // 2
    slot, table = backbone.pos_embed4[:, :1], backbone.pos_embed4[:, 1:].mT.unflatten(2, backbone.grids[3])
    table = F.interpolate(table, size=size, mode='bilinear').flatten(2).mT
    tokens = torch.cat([model.pool.cls_token.expand(len(x), -1, -1), tokens], dim=1) + torch.cat([slot, table], dim=1)
    for block in backbone.block4:
        normed, attn = block.norm1(tokens), block.attn
        q, (k, v) = attn.q(normed), attn.kv(normed).chunk(2, dim=-1)
        heads = [
            torch.softmax(q_ @ k_.mT / q_.shape[-1] ** 0.5, dim=-1) @ v_
            for q_, k_, v_ in zip(*(each.chunk(attn.num_heads, dim=-1) for each in (q, k, v)))
        ]
        tokens = tokens + attn.proj(torch.cat(heads, dim=-1))
        tokens = tokens + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(tokens))))
    return tokens[:, 0]


@pytest.mark.parametrize('img_size', [64, (64, 96)], ids=str)
@pytest.mark.parametrize('size', [(64, 96), (67, 53), (33, 128), (128, 128)], ids=str)
def test_class_token_keeps_its_position_at_any_size(img_size, size):
    model = build(V1, img_size=img_size).double().eval()
    x = images(2, 3, *size).double()
    expected = logits_and_gradients(lambda x: model.head(model.pool.norm(last_stage(model, x))), x)
    torch.testing.assert_close(logits_and_gradients(model, x), expected, rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        model.backbone.pos_embed4[0, 0, 3] += 1
        assert not torch.allclose(model(x), expected[0], atol=1e-3)


def test_checkpointing_and_drop_path_reach_the_last_stage():
    x, results = images(4, 3, 64, 96).double(), []
    for with_cp in (False, True):
        model = build(V1, with_cp=with_cp, drop_path_rate=0.5).double().train()
        torch.manual_seed(3)
        results.append(logits_and_gradients(model, x))
        assert_trains(model)
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)
    torch.manual_seed(4)
    assert not torch.allclose(model(x), results[0][0])


# --------------------------------------------------------------------------------------------- transformers (v1)
def transformers_pvt(model: ImageClassifier) -> nn.Module:
    """transformers' PVT for tables of 64 x 64 pixels, with the weights of ours.

    One eps serves all of its norms; the two that differ in the official code are mended here.
    """
    pvt = pytest.importorskip('transformers.models.pvt')
    keys = dict(depths='depths', embed_dims='hidden_sizes', num_heads='num_attention_heads', mlp_ratios='mlp_ratios')
    config = pvt.PvtConfig(
        image_size=64,
        num_labels=5,
        layer_norm_eps=1e-6,
        sequence_reduction_ratios=[8, 4, 2, 1],
        **{theirs: list(ARCH[ours]) for ours, theirs in keys.items()},
    )
    peer = pvt.PvtForImageClassification(config).double().eval()
    own, stages = model.state_dict(), 'pvt.encoder'
    tensors = {
        f'{stages}.patch_embeddings.3.cls_token': own['pool.cls_token'],
        f'{stages}.layer_norm.weight': own['pool.norm.weight'],
        f'{stages}.layer_norm.bias': own['pool.norm.bias'],
        'classifier.weight': own['head.weight'],
        'classifier.bias': own['head.bias'],
    }
    renamed = (
        ('norm1', 'layer_norm_1'), ('norm2', 'layer_norm_2'), ('mlp.fc', 'mlp.dense'),
        ('attn.q.', 'attention.self.query.'), ('attn.sr', 'attention.self.sequence_reduction'),
        ('attn.norm', 'attention.self.layer_norm'), ('attn.proj', 'attention.output.dense'),
    )  # fmt: skip
    for name, tensor in own.items():
        part, _, rest = name.removeprefix('backbone.').partition('.')
        stage = int(part[-1]) - 1 if part[-1].isdigit() else None
        if part.startswith('pos_embed'):
            tensors[f'{stages}.patch_embeddings.{stage}.position_embeddings'] = tensor
        elif part.startswith('patch_embed'):
            rest = rest.replace('proj', 'projection').replace('norm', 'layer_norm')
            tensors[f'{stages}.patch_embeddings.{stage}.{rest}'] = tensor
        elif '.attn.kv.' in name:
            for kind, half in zip(('key', 'value'), tensor.chunk(2)):
                tensors[f'{stages}.block.{stage}.{rest.replace("attn.kv", f"attention.self.{kind}")}'] = half
        elif part.startswith('block'):
            for ours, theirs in renamed:
                rest = rest.replace(ours, theirs)
            tensors[f'{stages}.block.{stage}.{rest}'] = tensor
    peer.load_state_dict(tensors)
    for name, norm in peer.named_modules():
        if name.endswith('layer_norm') and ('patch_embeddings' in name or 'attention' in name):
            norm.eps = 1e-5
    return peer


def test_v1_equals_transformers_at_the_size_of_its_tables():
    model = build(V1, img_size=64).double().eval()
    peer = transformers_pvt(model)
    x = images(2, 3, 64, 64).double()
    expected = logits_and_gradients(lambda x: peer(x).logits, x)
    torch.testing.assert_close(logits_and_gradients(model, x), expected, rtol=1e-9, atol=1e-11)
    # it reads a table with the height and width of the image instead of the table's
    with pytest.raises(RuntimeError, match='shape'):
        peer(images(2, 3, 64, 96).double())
    model(images(2, 3, 64, 96).double())


# ------------------------------------------------------------------------------------------------ bad arguments
def test_a_class_token_needs_the_last_stage():
    model = ImageClassifier(dict(V1, out_indices=(0, 2)), num_classes=5)
    with pytest.raises(ValueError, match=r'out_indices=\(0, 2\) must end with 3'):
        model(images(1, 3, 64, 96))
    averaged = ImageClassifier(dict(V1, out_indices=(0, 2)), 'average', num_classes=5)
    assert averaged(images(1, 3, 64, 96)).shape == (1, 5)


def test_v2_has_no_class_token():
    with pytest.raises(ValueError, match='PyramidVisionTransformerV2 has no class token'):
        ImageClassifier(V2, 'cls_token')
