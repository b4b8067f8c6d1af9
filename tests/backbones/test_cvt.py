"""CvT: the contract, equality with transformers' model, the golden maps, BatchNorm's policy, and the traps."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.model.base_module import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from densevit.backbones.cvt import ConvAttention, CvT
from densevit.checkpoints import load_weights
from densevit.checkpoints.cvt import from_transformers
from densevit.inference import fold
from tests.backbones.contract import BackboneContract, assert_trains, fill, gradients, images, loss_of
from tests.reference import assert_summary, filled_state_dict, golden_input

# transformers' model takes its drop path rate of block s from a list as long as the stage: it needs three in the last
ARCH = dict(embed_dims=(8, 16, 24), depths=(1, 2, 3), num_heads=(1, 2, 3))
SMALL = dict(ARCH, depths=(1, 1, 2))


def map_size(side: int, index: int) -> int:
    """Tokens along a side of so many pixels."""
    return ((side + 1) // 4 + 2**index - 1) // 2**index


def norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def filled(model: nn.Module) -> nn.Module:
    """:func:`fill`, and running statistics that are not 0 and 1 either."""
    for index, norm in enumerate(norms(fill(model)).values()):
        norm.running_mean.copy_(0.3 * images(*norm.running_mean.shape, seed=index))
        norm.running_var.copy_(0.5 + images(*norm.running_var.shape, seed=100 + index) ** 2)
    return model


class TestContract(BackboneContract):
    cls = CvT
    arch = SMALL
    channels = (8, 16, 24)
    strides = (4, 8, 16)
    # without and with a class token, which an only stage has
    compiled = dict(arch=dict(embed_dims=(8, 16), depths=(1, 1), num_heads=(1, 2)), out_indices=(0, 1))
    inductor = dict(arch=dict(embed_dims=(8,), depths=(1,), num_heads=(1,)), out_indices=(0,))
    stage_names = (('stage0.patch_embed.',), ('stage0.blocks.',), ('stage1.',), ('stage2.',))
    # a side of 33 or 34 pixels has one key in the last stage, and torch traces a convolution to one row separately
    exports_any_size = False

    def map_size(self, height, width, index):
        return map_size(height, index), map_size(width, index)

    def build(self, **options):
        """With running statistics as training leaves them: the contract compares training with evaluation."""
        options.setdefault('norm_cfg', dict(type='BN', momentum=1.0))
        model = super().build(**options)
        for module in model.modules():
            module.training = isinstance(module, _BatchNorm)
        with torch.no_grad():
            model(images(2, options.get('in_channels', 3), 67, 53))
        return model.train()

    def test_exports_from_35_pixels(self):
        model = self.build().eval()
        sides = {2: torch.export.Dim('height', min=35, max=512), 3: torch.export.Dim('width', min=35, max=512)}
        program = torch.export.export(model, (images(2, 3, 67, 53),), dynamic_shapes=(sides,))
        for size in ((67, 53), (128, 64), (35, 36)):
            x = images(2, 3, *size)
            with torch.no_grad():
                torch.testing.assert_close(program.module()(x), model(x))


# -------------------------------------------------------------------------------------- the official model's equals
class QuickGELU(nn.Module):
    """By its formula, not by timm's function, which the model under test uses."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + torch.exp(-1.702 * x))


def peer(arch: dict = ARCH, quick_gelu: bool = True, **options) -> nn.Module:
    """transformers' classifier, filled, with the official activation where ``quick_gelu``."""
    transformers = pytest.importorskip('transformers')
    config = transformers.CvtConfig(
        embed_dim=list(arch['embed_dims']), depth=list(arch['depths']), num_heads=list(arch['num_heads']),
        num_labels=5, **{'drop_path_rate': [0.0, 0.0, 0.0], **options},
    )  # fmt: skip
    model = filled(transformers.CvtForImageClassification(config))
    if quick_gelu:
        for stage in model.cvt.encoder.stages:
            for layer in stage.layers:
                layer.intermediate.activation = QuickGELU()
    return model


def peer_maps(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return model.cvt(x, output_hidden_states=True).hidden_states


@pytest.mark.parametrize('mode', ['eval', 'train'])
@pytest.mark.parametrize('size', [(64, 64), (64, 96), (67, 53), (33, 128), (35, 71)], ids=str)
def test_equals_transformers(size, mode):
    theirs = peer().double().train(mode == 'train')
    ours = CvT(ARCH).double().train(mode == 'train')
    load_weights(ours, theirs.state_dict())

    results = []
    for maps_of in (ours, lambda x: peer_maps(theirs, x)):
        x = images(2, 3, *size).double().requires_grad_()
        maps = maps_of(x)
        loss_of(maps).backward()
        results.append((maps, x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-11)

    # gradients of all parameters, and in training the running statistics after the step
    found = {**gradients(ours), **statistics(ours)}
    expected = from_transformers(
        {**{n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}, **statistics(theirs)}
    )
    expected = {name.removeprefix('backbone.'): tensor for name, tensor in expected.items()}
    assert set(found) == set(expected)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


def test_equals_transformers_in_float32():
    theirs, ours = peer().eval(), CvT(ARCH).eval()
    load_weights(ours, theirs.state_dict())
    x = images(2, 3, 67, 53)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), peer_maps(theirs, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('size', [(3, 3), (5, 22), (3, 40)], ids=str)
def test_small_images(size):
    theirs, ours = peer().double().eval(), CvT(ARCH).double().eval()
    load_weights(ours, theirs.state_dict())
    x = images(1, 3, *size).double()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), peer_maps(theirs, x), rtol=1e-9, atol=1e-11)


def test_transformers_has_another_activation():
    """An exact GELU stands where the official model, whose weights it loads, has QuickGELU: a visible difference."""
    theirs, ours = peer(quick_gelu=False).double().eval(), CvT(ARCH).double().eval()
    load_weights(ours, theirs.state_dict())
    x = images(2, 3, 67, 53).double()
    with torch.no_grad():
        assert (ours(x)[-1] - peer_maps(theirs, x)[-1]).abs().max() > 1e-3
        for stage in (ours.stage0, ours.stage1, ours.stage2):
            for block in stage.blocks:
                block.mlp.act = nn.GELU()
        torch.testing.assert_close(ours(x), peer_maps(theirs, x), rtol=1e-9, atol=1e-11)


def test_transformers_drops_other_paths():
    """One rate for a whole stage, taken at the stage's number from its ramp; and the second drop takes the identity
    along, so that nothing is left of an image. Neither is so in the official code, nor here."""
    theirs = peer(drop_path_rate=[0.0, 0.0, 0.4], arch=dict(ARCH, depths=(1, 2, 5)))
    rates = [layer.drop_path.drop_prob for layer in theirs.cvt.encoder.stages[2].layers]
    assert rates == pytest.approx([0.2] * 5)
    ours = CvT(dict(ARCH, depths=(1, 2, 5)), drop_path_rate=0.4)
    assert [b.drop_path.drop_prob for b in ours.stage2.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])

    layer, block = theirs.cvt.encoder.stages[2].layers[0].train(), ours.stage2.blocks[0].train()
    layer.drop_path.drop_prob = block.drop_path.drop_prob = 1 - 1e-6  # drops all
    x = images(2, 1 + 4 * 5, 24)
    assert not layer(x, 4, 5).any()
    assert torch.equal(block(x, (4, 5)), x)


def test_transformers_ignores_its_eps():
    """Its config says 1e-12, its norms have torch's 1e-5, as the official model."""
    theirs = peer()
    assert theirs.config.layer_norm_eps == 1e-12
    assert {m.eps for m in theirs.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}


def test_golden_maps(shared_facts):
    golden = json.loads((shared_facts / 'golden_outputs.json').read_text())['cvt_13_224']
    shapes = json.loads((shared_facts / 'manifests/cvt_13_224.json').read_text())
    model = CvT('13').eval()
    # the fill rule leaves the counters out; zeros take their place
    report = load_weights(
        model, filled_state_dict({n: s for n, s in shapes.items() if not n.endswith('num_batches_tracked')})
    )
    assert set(report.loaded) == set(model.state_dict())
    assert set(report.skipped) == {'pool.norm.weight', 'pool.norm.bias', 'head.weight', 'head.bias'}
    with torch.no_grad():
        maps = model(golden_input(golden['input']).float())
    for index, m in enumerate(maps):
        assert_summary(m, golden['features'][f'stage{index}'], 1e-5)


@pytest.mark.parametrize(('arch', 'manifest'), [('13', '13_224'), ('21', '21_224'), ('W24', 'w24_384')])
def test_parameters_are_those_of_the_manifest(shared_facts, arch, manifest):
    shapes = json.loads((shared_facts / f'manifests/cvt_{manifest}.json').read_text())
    trunk = {name: tuple(shape) for name, shape in shapes.items() if name.startswith('stage')}
    with torch.device('meta'):
        model = CvT(arch)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == trunk
    assert model.out_strides == (4, 8, 16)


# ------------------------------------------------------------------------------------------------- the traps
@pytest.mark.parametrize('side', [3, 6, 7, 10, 11, 33, 53, 63, 64, 65, 66, 67, 70, 71, 128])
def test_sizes_of_the_maps(side):
    expected = {
        3: (1, 1, 1), 6: (1, 1, 1), 7: (2, 1, 1), 10: (2, 1, 1), 11: (3, 2, 1), 33: (8, 4, 2), 53: (13, 7, 4),
        63: (16, 8, 4), 64: (16, 8, 4), 65: (16, 8, 4), 66: (16, 8, 4), 67: (17, 9, 5), 70: (17, 9, 5),
        71: (18, 9, 5), 128: (32, 16, 8),
    }[side]  # fmt: skip
    with torch.device('meta'):
        maps = CvT(SMALL).eval()(torch.zeros(1, 3, side, 40))
        turned = CvT(SMALL).eval()(torch.zeros(1, 3, 40, side))
    assert [(m.shape[2], m.shape[3]) for m in maps] == list(zip(expected, (10, 5, 3)))
    assert [(m.shape[3], m.shape[2]) for m in turned] == list(zip(expected, (10, 5, 3)))
    assert expected == tuple(map_size(side, index) for index in range(3))


def attend(weights: dict[str, Tensor], x: Tensor, size: tuple[int, int], heads: int, extra: int) -> Tensor:
    """The attention of section 3.2 and of the official code, with loops for heads and strides, in evaluation."""
    B, _, C = x.shape
    H, W = size
    tokens = {}
    for letter, stride in (('q', 1), ('k', 2), ('v', 2)):
        grid = x[:, extra:].reshape(B, H, W, C)
        padded = torch.zeros(B, H + 2, W + 2, C, dtype=x.dtype)
        padded[:, 1:-1, 1:-1] = grid
        kernel = weights[f'conv_proj_{letter}.conv.weight'][:, 0]  # (C, 3, 3)
        norm = {part: weights[f'conv_proj_{letter}.bn.{part}'] for part in ('weight', 'bias')}
        mean, variance = (weights[f'conv_proj_{letter}.bn.running_{part}'] for part in ('mean', 'var'))
        rows = [x[:, i] for i in range(extra)]  # not convolved, and first
        for top in range(0, H, stride):
            for left in range(0, W, stride):
                summed = torch.einsum('bijc,cij->bc', padded[:, top : top + 3, left : left + 3], kernel)
                rows.append((summed - mean) / torch.sqrt(variance + 1e-5) * norm['weight'] + norm['bias'])
        tokens[letter] = torch.stack(rows, 1) @ weights[f'proj_{letter}.weight'].T + weights[f'proj_{letter}.bias']
    d = C // heads
    mixed = []
    for head in range(heads):
        q, k, v = (tokens[letter][..., head * d : head * d + d] for letter in 'qkv')
        scores = torch.einsum('bld,bsd->bls', q, k) / math.sqrt(C)  # not sqrt(d)
        mixed.append(torch.einsum('bls,bsd->bld', scores.exp() / scores.exp().sum(-1, keepdim=True), v))
    return torch.cat(mixed, -1) @ weights['proj.weight'].T + weights['proj.bias']


@pytest.mark.parametrize('backend', ['reference', 'sdpa'])
@pytest.mark.parametrize('extra', [0, 1])
@pytest.mark.parametrize('size', [(4, 6), (5, 7), (1, 4), (3, 1)], ids=str)
def test_attention_equals_its_formula(size, extra, backend):
    attn = filled(ConvAttention(12, 3, num_extra=extra, norm_cfg=dict(type='BN'), attn_backend=backend)).double().eval()
    x = images(2, extra + size[0] * size[1], 12).double().requires_grad_()
    found, expected = attn(x, size), attend(attn.state_dict(keep_vars=True), x, size, 3, extra)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    target = images(*found.shape, seed=5).double()
    inputs = [x, *attn.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((found * target).sum(), inputs),
        torch.autograd.grad((expected * target).sum(), inputs),
        rtol=1e-8,
        atol=1e-11,
    )


@pytest.mark.parametrize('size', [(33, 128), (67, 53)], ids=str)
@pytest.mark.parametrize('norm_cfg', [None, dict(type='SyncBN'), dict(type='GN', num_groups=4)], ids=str)
@pytest.mark.parametrize('batch', [1, 2])
def test_folded_computes_the_same(batch, norm_cfg, size):
    model = filled(CvT(SMALL, norm_cfg=norm_cfg)).double().eval()
    x = images(batch, 3, *size).double()
    expected, token, state = model(x), model.class_token(x), copy.deepcopy(model.state_dict())
    fold(model)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(model.class_token(x), token, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_a_folded_projection_is_one_convolution():
    model, seen = fold(filled(CvT(SMALL))), []
    for norm in norms(model).values():
        norm.register_forward_hook(lambda *args: seen.append(args[0]))
    with torch.no_grad():
        model(images(1, 3, 67, 53))
        assert not seen
        model.train()(images(1, 3, 67, 53))
    assert len(seen) == len(norms(model))


def test_the_class_token_passes_by_the_convolutions():
    model, seen = filled(CvT(SMALL)).eval(), {}
    block = model.stage2.blocks[0]
    block.norm1.register_forward_hook(lambda module, args, output: seen.update(normed=output))
    for letter in 'qkv':
        conv, linear = getattr(block.attn, f'conv_proj_{letter}'), getattr(block.attn, f'proj_{letter}')
        conv.register_forward_hook(lambda m, args, output, key=letter: seen.update({f'map_{key}': (args[0], output)}))
        linear.register_forward_pre_hook(lambda module, args, key=letter: seen.update({f'tokens_{key}': args[0]}))
    with torch.no_grad():
        model(images(2, 3, 67, 53))  # 5 x 4 tokens, 3 x 2 keys
    assert seen['normed'].shape == (2, 1 + 20, 24)
    for letter, (height, width) in dict(q=(5, 4), k=(3, 2), v=(3, 2)).items():
        given, made = seen[f'map_{letter}']
        assert torch.equal(given.flatten(1, 2), seen['normed'][:, 1:])
        assert made.shape == (2, height, width, 24)
        assert torch.equal(seen[f'tokens_{letter}'][:, :1], seen['normed'][:, :1])
        assert torch.equal(seen[f'tokens_{letter}'][:, 1:], made.flatten(1, 2))


def test_the_class_token_acts_on_the_map_and_is_not_in_it():
    model, x = filled(CvT(SMALL)).eval(), images(2, 3, 67, 53)
    assert [name for name, _ in model.named_parameters() if 'cls_token' in name] == ['stage2.cls_token']
    with torch.no_grad():
        before, token = model(x), model.class_token(x)
        assert before[-1].shape[2:] == (5, 4)
        assert token.shape == (2, 1, 24)
        model.stage2.cls_token *= -1
        after = model(x)
    torch.testing.assert_close(after[:2], before[:2], rtol=0, atol=0)
    assert ((after[2] - before[2]).abs().amax(dim=1) > 1e-4).all()  # at every position


def test_the_class_token_needs_the_last_stage():
    model = CvT(SMALL, out_indices=(0, 1))
    with pytest.raises(ValueError, match=r'out_indices=\(0, 1\).*not built'):
        model.class_token(images(1, 3, 64, 96))


def test_maps_have_no_norm_of_their_own():
    model, given = filled(CvT(SMALL)).eval(), []
    for stage in (model.stage1, model.stage2):
        stage.patch_embed.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    with torch.no_grad():
        maps = model(images(2, 3, 67, 53))
    assert torch.equal(maps[0], given[0]) and torch.equal(maps[1], given[1])


def test_layer_norms():
    """eps is 1e-5, and bfloat16 is normed in float32: with a mean of 300 its own 8 bits would leave no variance."""
    model = CvT(SMALL)
    layers = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert len(layers) == 3 + 2 * 4
    assert {m.eps for m in layers} == {1e-5}
    x = (300 + 2 * images(5, 24)).to(torch.bfloat16)
    norm = fill(copy.deepcopy(model.stage2.blocks[0].norm1))
    narrow = copy.deepcopy(norm).to(torch.bfloat16)
    wide = F.layer_norm(x.float(), (24,), narrow.weight.float(), narrow.bias.float(), 1e-5)
    torch.testing.assert_close(narrow(x), wide.to(torch.bfloat16), rtol=2**-7, atol=2**-8)  # one rounding at the end
    assert norm.double()(x.double()).dtype == torch.float64


def test_the_activation_is_quick_gelu():
    mlp = fill(CvT(SMALL)).stage1.blocks[0].mlp
    x = images(2, 5, 16)
    hidden = x @ mlp.fc1.weight.T + mlp.fc1.bias
    expected = hidden * torch.sigmoid(1.702 * hidden) @ mlp.fc2.weight.T + mlp.fc2.bias
    torch.testing.assert_close(mlp(x), expected)
    assert (mlp.fc2(F.gelu(mlp.fc1(x))) - expected).abs().max() > 1e-3


def test_drop_path_rises_within_the_last_stage():
    with torch.device('meta'):
        model = CvT('21', drop_path_rate=0.3)
        without_last = CvT('21', drop_path_rate=0.3, out_indices=(1,))
    rates = [[b.drop_path.drop_prob for b in getattr(model, f'stage{s}').blocks] for s in range(3)]
    assert rates[:2] == [[0.0], [0.0] * 4]
    assert rates[2] == pytest.approx([0.3 * i / 15 for i in range(16)])
    assert {b.drop_path.drop_prob for s in (0, 1) for b in getattr(without_last, f'stage{s}').blocks} == {0.0}


def test_only_the_stages_that_an_output_needs_are_built():
    model = CvT(SMALL, out_indices=(0,), frozen_stages=3)
    assert {name.partition('.')[0] for name in model.state_dict()} == {'stage0'}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.is_unbuilt('stage1.blocks.0.norm1.weight') and not model.is_unbuilt('stage0.blocks.0.norm1.weight')
    whole = filled(CvT(SMALL))
    report = load_weights(model, whole.state_dict())
    assert set(report.skipped) == {name for name in whole.state_dict() if not name.startswith('stage0.')}


def test_initial_weights_are_the_official_ones():
    model = CvT(dict(embed_dims=(64, 96, 128), depths=(1, 1, 2), num_heads=(1, 2, 4)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model.init_weights()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert 0.018 < module.weight.std() < 0.022, name
            assert module.weight.abs().max() < 0.2
            assert not module.bias.any(), name
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            assert (module.weight == 1).all() and not module.bias.any(), name
        elif isinstance(module, nn.Conv2d):  # torch: uniform within 1 / sqrt(inputs of a unit)
            bound = math.prod(module.weight.shape[1:]) ** -0.5
            assert 0.8 * bound < module.weight.abs().max() <= bound, name
    assert 0.015 < model.stage2.cls_token.std() < 0.025


def test_init_cfg_comes_after_the_official_initialization():
    model = CvT(SMALL, init_cfg=dict(type='Constant', val=0.5, layer='Linear'))
    assert isinstance(model, BaseModule)
    model.init_weights()
    assert (model.stage0.blocks[0].mlp.fc1.weight == 0.5).all()
    assert 0 < model.stage2.cls_token.std() < 0.05


@pytest.mark.parametrize(('wrong', 'message'), [
    (dict(depths=(1, 2)), r'depths=\(1, 2\).*one entry per stage'),
    (dict(num_heads=(1, 2, 3, 4)), r'num_heads=\(1, 2, 3, 4\)'),
    (dict(num_heads=(1, 3, 3)), 'embed_dims=16 is not a multiple of num_heads=3'),
])  # fmt: skip
def test_arch_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        CvT({**SMALL, **wrong})


@pytest.mark.parametrize('size', [(64, 96), (67, 53), (33, 128)], ids=str)
def test_backends_agree(size):
    results = []
    for backend in ('reference', 'sdpa', 'auto'):
        model = filled(CvT(ARCH, attn_backend=backend)).double()
        x = images(2, 3, *size).double().requires_grad_()
        maps = model(x)
        loss_of(maps).backward()
        results.append((maps, x.grad, gradients(model)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(results[2], results[1], rtol=0, atol=0)


# ------------------------------------------------------------------------------------------ BatchNorm's policy
def test_batch_norm_counts_the_batch_by_default():
    """What the policy is there for: in training an image's maps depend on the other images."""
    model, x = filled(CvT(SMALL)), images(3, 3, 67, 53)
    before = statistics(model)
    together, alone = model(x), model(x[:1])
    assert not torch.allclose(together[2][:1], alone[2], atol=1e-2)
    assert all(not torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert {norm.momentum for norm in norms(model).values()} == {0.1}
    assert {norm.eps for norm in norms(model).values()} == {1e-5}


@pytest.mark.parametrize('norm_cfg', [None, dict(type='SyncBN')], ids=str)
def test_norm_eval(norm_cfg):
    """Statistics are used and stay, in training too; weights learn; an image does not depend on its batch."""
    model = filled(CvT(SMALL, norm_cfg=norm_cfg, norm_eval=True)).double()
    x, before = images(3, 3, 67, 53).double(), statistics(model)
    for mode in (True, False, True):
        assert model.train(mode) is model
        assert not any(norm.training for norm in norms(model).values())
        assert model.stage2.training == model.stage2.blocks[0].mlp.training == mode
    maps = model(x)
    torch.testing.assert_close(maps, tuple(map(torch.cat, zip(*(model(image[None]) for image in x)))))
    torch.testing.assert_close(maps, filled(CvT(SMALL)).double().eval()(x))
    loss_of(maps).backward()
    assert_trains(model)
    torch.testing.assert_close(statistics(model), before, rtol=0, atol=0)


def test_frozen_batch_norm():
    model = filled(CvT(SMALL, norm_cfg=dict(type='BN', requires_grad=False), norm_eval=True)).train()
    before = copy.deepcopy(model.state_dict())
    of_norms = {f'{name}.{kind}' for name in norms(model) for kind in ('weight', 'bias')}
    assert len(of_norms) == 2 * 3 * 4
    loss_of(model(images(2, 3, 67, 53))).backward()
    assert {name for name, gradient in gradients(model).items() if gradient is None} == of_norms
    assert_trains(model, set(gradients(model)) - of_norms)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_frozen_stages_with_norm_eval():
    model = CvT(SMALL, frozen_stages=1, norm_eval=True).train()
    assert not model.stage0.blocks.training and model.stage1.training
    assert not any(norm.training for norm in norms(model).values())


def test_sync_batch_norm():
    plain, sync = filled(CvT(SMALL)).eval(), filled(CvT(SMALL, norm_cfg=dict(type='SyncBN'))).eval()
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms(sync).values())
    assert len(norms(sync)) == 12
    assert list(plain.state_dict()) == list(sync.state_dict())
    x = images(2, 3, 67, 53)
    with torch.no_grad():
        torch.testing.assert_close(sync(x), plain(x))
    # what the tools do with BN in a distributed run
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(filled(CvT(SMALL, norm_eval=True))).train()
    assert {type(norm) for norm in norms(converted).values()} == {nn.SyncBatchNorm}
    assert not any(norm.training for norm in norms(converted).values())


def test_norm_cfg_is_not_changed():
    norm_cfg = dict(type='BN', requires_grad=False, momentum=0.02)
    model = CvT(SMALL, norm_cfg=norm_cfg)
    assert norm_cfg == dict(type='BN', requires_grad=False, momentum=0.02)
    assert {norm.momentum for norm in norms(model).values()} == {0.02}


@pytest.mark.parametrize('momentum', [0.1, None])
@pytest.mark.parametrize('kind', ['BN', 'SyncBN'])
def test_recomputing_counts_a_batch_once(momentum, kind):
    x, after = images(2, 3, 67, 53), []
    for with_cp in (False, True):
        model = filled(CvT(SMALL, with_cp=with_cp, norm_cfg=dict(type=kind, momentum=momentum))).train()
        names = list(model.state_dict())
        for _ in range(2):
            loss_of(model(x)).backward()
        assert list(model.state_dict()) == names
        assert {norm.momentum for norm in norms(model).values()} == {momentum}
        after.append((statistics(model), gradients(model)))
    assert after[1][0]['stage1.blocks.0.attn.conv_proj_k.bn.num_batches_tracked'] == 2
    torch.testing.assert_close(after[1], after[0], rtol=1e-6, atol=1e-6)


def test_numbers_of_the_variants():
    """Heads enter no shape and no count, so official weights would load into a model with others."""
    assert {name: tuple(arch.values()) for name, arch in CvT.ARCHS.items()} == {
        '13': ((64, 192, 384), (1, 2, 10), (1, 3, 6)),
        '21': ((64, 192, 384), (1, 4, 16), (1, 3, 6)),
        'W24': ((192, 768, 1024), (2, 2, 20), (3, 12, 16)),
    }
    with torch.device('meta'):
        assert CvT(21).out_channels == (64, 192, 384)  # as a command line gives it


@pytest.mark.parametrize('wrong', ['BN', {}, dict(momentum=0.1)], ids=str)
def test_a_norm_without_a_type(wrong):
    with pytest.raises(ValueError, match=r'norm_cfg=.*give a dict'):
        CvT(SMALL, norm_cfg=wrong)


def test_an_image_below_the_first_kernel():
    with pytest.raises(ValueError, match='2 x 9 pixels are too small'):
        CvT(SMALL)(torch.zeros(1, 3, 2, 9))
