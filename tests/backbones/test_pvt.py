"""PVT and PVT v2: the contract, equality with timm and mmdet, and each trap of the official code."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit.backbones.pvt import ConvMlp, PyramidVisionTransformer, PyramidVisionTransformerV2
from densevit.backbones.pvt import SpatialReductionAttention as Attention
from densevit.checkpoints import export_weights
from densevit.layers import to_nchw
from tests.backbones.contract import BackboneContract, assert_trains, fill, gradients, images, loss_of

ARCH = dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))
DEEPER = dict(ARCH, depths=(2, 1, 2, 2))
LINEAR = dict(ARCH, linear=True)
# with and without reduction of the keys
TWO_STAGES = dict(embed_dims=(8, 16), depths=(1, 1), num_heads=(1, 2), mlp_ratios=(2, 2), sr_ratios=(2, 1))
MODELS = {
    'v1': (PyramidVisionTransformer, ARCH),
    'v2': (PyramidVisionTransformerV2, ARCH),
    'v2 linear': (PyramidVisionTransformerV2, LINEAR),
}
SIZES = ((64, 64), (64, 96), (67, 53), (33, 128), (101, 75))


class TestContractV1(BackboneContract):
    cls = PyramidVisionTransformer
    arch = ARCH
    channels, strides, ceil = (8, 16, 24, 32), (4, 8, 16, 32), False
    compiled = dict(arch=TWO_STAGES, out_indices=(0, 1))
    # a map that has the table's size, and a reduced map of one row, are special cases for torch
    exports_any_size = False
    stage_names = (
        ('patch_embed1.', 'pos_embed1'),
        ('block1.',),
        ('patch_embed2.', 'pos_embed2', 'block2.'),
        ('patch_embed3.', 'pos_embed3', 'block3.'),
        ('patch_embed4.', 'pos_embed4', 'block4.'),
    )


class TestContractV2(BackboneContract):
    cls = PyramidVisionTransformerV2
    arch = ARCH
    channels, strides = (8, 16, 24, 32), (4, 8, 16, 32)
    compiled = dict(arch=TWO_STAGES, out_indices=(0, 1))
    exports_any_size = False  # a reduced map of one row is a special case for torch
    stage_names = (
        ('patch_embed1.',),
        ('block1.', 'norm1.'),
        ('patch_embed2.', 'block2.', 'norm2.'),
        ('patch_embed3.', 'block3.', 'norm3.'),
        ('patch_embed4.', 'block4.', 'norm4.'),
    )


class TestContractV2Linear(TestContractV2):
    arch = LINEAR
    compiled = dict(arch=dict(TWO_STAGES, linear=True), out_indices=(0, 1))
    exports_any_size = True  # the reduced map is 7 x 7 whatever the size


def maps_and_image_gradient(model: Callable, size: tuple[int, int]) -> tuple[tuple[Tensor, ...], Tensor]:
    x = images(2, 3, *size).double().requires_grad_()
    maps = tuple(model(x))
    loss_of(maps).backward()
    return maps, x.grad


def assert_same(model: nn.Module, peer: Callable, size: tuple[int, int]) -> None:
    expected = maps_and_image_gradient(peer, size)
    assert expected[1].flatten(1).any(dim=1).all()
    torch.testing.assert_close(maps_and_image_gradient(model, size), expected, rtol=1e-9, atol=1e-11)


# ------------------------------------------------------------------------------------------------ timm (v2)
class TimmPyramid(nn.Module):
    """timm's PVT v2, the maps of all stages, with the weights of ours."""

    def __init__(self, model: nn.Module, linear: bool) -> None:
        super().__init__()
        pvt_v2 = pytest.importorskip('timm.models.pvt_v2')
        arch = {key: value for key, value in DEEPER.items() if key != 'linear'}
        self.peer = pvt_v2.PyramidVisionTransformerV2(**arch, linear=linear, num_classes=0).double().eval()
        self.peer.load_state_dict(export_weights(model, 'timm'))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x, maps = self.peer.patch_embed(x), []
        for stage in self.peer.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


@pytest.mark.parametrize('linear', [False, True], ids=['sr', 'linear'])
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_v2_equals_timm(size, linear):
    model = fill(PyramidVisionTransformerV2(dict(DEEPER, linear=linear))).double().eval()
    assert_same(model, TimmPyramid(model, linear), size)


def test_maps_smaller_than_the_pooling_equal_timm():
    """Stage 4 of an image of 40 x 70 is 2 x 3, and is spread out to 7 x 7."""
    model = fill(PyramidVisionTransformerV2(dict(DEEPER, linear=True))).double().eval()
    assert_same(model, TimmPyramid(model, linear=True), (40, 70))
    assert_same(model, TimmPyramid(model, linear=True), (9, 5))


# ------------------------------------------------------------------------------------------ mmdet (v1, v2)
def mmdet_pyramid(model: nn.Module, *, eps: bool = True) -> nn.Module:
    """mmdet's PVT with the weights of ours.

    It has eps 1e-6 in every norm, also where torch's default of 1e-5 is left in the official code; ``eps`` mends that.
    It has no linear variant.
    """
    pvt = pytest.importorskip('mmdet.models.backbones.pvt')
    v1 = isinstance(model, PyramidVisionTransformer)
    cls = pvt.PyramidVisionTransformer if v1 else pvt.PyramidVisionTransformerV2
    arch = dict(
        embed_dims=8, num_layers=DEEPER['depths'], num_heads=DEEPER['num_heads'], mlp_ratios=DEEPER['mlp_ratios']
    )
    if v1:
        height, width = (4 * side for side in model.grids[0])
        arch['pretrain_img_size'] = (height, width)
    peer = cls(**arch).double().eval()
    peer.load_state_dict(export_weights(model, 'mm'))
    for name, norm in peer.named_modules():
        if eps and re.search(r'\d\.0\.norm$|attn\.norm$', name):
            norm.eps = 1e-5
    return peer


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_v2_equals_mmdet(size):
    model = fill(PyramidVisionTransformerV2(DEEPER)).double().eval()
    assert_same(model, mmdet_pyramid(model), size)


# Tables of 64 x 64 pixels have 256 entries in stage 1. At 128 x 128 stage 2, at 256 x 256 stage 3 has as many tokens,
# where the official code fails, as with tables of 224 at 448 and 896; at 32 x 128 stage 1 has, in other rows.
QUIRKS = ((64, (128, 128)), (64, (256, 256)), (64, (32, 128)), (224, (448, 448)))


@pytest.mark.parametrize(
    ('img_size', 'size'),
    [*((64, size) for size in SIZES), *(((64, 96), size) for size in SIZES), ((96, 64), (64, 96)), *QUIRKS],
    ids=str,
)
def test_v1_equals_mmdet(img_size, size):
    model = fill(PyramidVisionTransformer(DEEPER, img_size=img_size)).double().eval()
    assert_same(model, mmdet_pyramid(model), size)


@pytest.mark.parametrize('cls', [PyramidVisionTransformer, PyramidVisionTransformerV2])
def test_mmdet_has_another_eps(cls):
    """Which tokens of little variance show: with 0.001 of the weights the maps differ by a tenth."""
    model = fill(cls(DEEPER)).double().eval()
    with torch.no_grad():
        model.patch_embed1.proj.weight *= 1e-3
        model.patch_embed1.proj.bias.zero_()
        first, x = model(images(1, 3, 64, 96).double())[0], images(1, 3, 64, 96).double()
        torch.testing.assert_close(mmdet_pyramid(model)(x)[0], first, rtol=1e-9, atol=1e-11)
        other = mmdet_pyramid(model, eps=False)(x)[0]
    assert (other - first).abs().max() > 0.1 * first.abs().max()


# ------------------------------------------------------------------------------------------------ the traps
def test_eps_of_every_norm():
    for cls, arch in MODELS.values():
        norms = {name: m.eps for name, m in cls(arch).named_modules() if isinstance(m, nn.LayerNorm)}
        for name, eps in norms.items():
            assert eps == (1e-5 if re.search(r'patch_embed\d\.norm|attn\.norm', name) else 1e-6), name
        assert len(norms) == (4 + 2 * 4) + (0 if cls is PyramidVisionTransformer else 4) + (
            4 if 'linear' in arch else 3
        )


@pytest.mark.parametrize('size', [(448, 448), (896, 896), (112, 448), (416, 288)], ids=str)
def test_position_tables_are_interpolated_wherever_the_map_has_another_size(size):
    """448 and 896 fail in the official code, and 112 x 448 gets the rows of a 56 x 56 table."""
    model = fill(PyramidVisionTransformer(dict(ARCH, embed_dims=(4,) * 4, num_heads=(1,) * 4))).eval()
    made_for = PyramidVisionTransformer(dict(ARCH, embed_dims=(4,) * 4, num_heads=(1,) * 4), img_size=size).eval()
    tables = model.state_dict()
    for stage, (before, grid) in enumerate(zip(model.grids, made_for.grids), start=1):
        table = tables[f'pos_embed{stage}']
        slot = table[:, : table.shape[1] - math.prod(before)]
        table = table[:, slot.shape[1] :].unflatten(1, before)
        table = F.interpolate(to_nchw(table), size=grid, mode='bilinear')
        tables[f'pos_embed{stage}'] = torch.cat([slot, table.flatten(2).transpose(1, 2)], dim=1)
    made_for.load_state_dict(tables)
    x = images(1, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(model(x), made_for(x), rtol=1e-4, atol=1e-5)


def test_height_of_a_table_comes_before_its_width():
    model = PyramidVisionTransformer(ARCH, img_size=(64, 160))
    assert model.grids == ((16, 40), (8, 20), (4, 10), (2, 5))
    assert [getattr(model, f'pos_embed{s}').shape[1] for s in (1, 2, 3, 4)] == [640, 160, 40, 11]
    with torch.no_grad():
        model.pos_embed1.copy_(torch.arange(640)[None, :, None].expand(1, -1, 8))
        zeros = torch.zeros(1, 64, 160, 3)
        position = (model.embed(zeros, 0) - model.patch_embed1(to_nchw(zeros)))[0, ..., 0]
    assert position[1, 0].round() == 40
    assert position[0, 1].round() == 1


def test_rounding_is_stage_by_stage():
    """v1 drops what fills no patch; v2 pads, and its last row and column count."""
    x = images(1, 3, 67, 55)
    changed = x.clone()
    changed[..., 64:, :] += 1
    changed[..., :, 52:] += 1
    v1, v2 = (fill(cls(ARCH)).eval() for cls in (PyramidVisionTransformer, PyramidVisionTransformerV2))
    with torch.no_grad():
        torch.testing.assert_close(v1(changed), v1(x), rtol=0, atol=0)
        assert all(not torch.equal(a, b) for a, b in zip(v2(changed), v2(x)))
        # 13 columns in stage 1; the last makes no patch of stage 2
        changed = x.clone()
        changed[..., :, 48:52] += 1
        before, after = v1(x), v1(changed)
    assert not torch.equal(after[0], before[0])
    torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=0)
    assert [tuple(m.shape[2:]) for m in before] == [(16, 13), (8, 6), (4, 3), (2, 1)]
    with torch.no_grad():
        assert [tuple(m.shape[2:]) for m in v2(x)] == [(17, 14), (9, 7), (5, 4), (3, 2)]


def test_v2_norms_between_stages_and_v1_not_at_all():
    seen: dict[str, Tensor] = {}
    v2 = PyramidVisionTransformerV2(ARCH).double().eval()
    for stage in (2, 3, 4):
        getattr(v2, f'patch_embed{stage}').register_forward_pre_hook(
            lambda module, args, stage=stage: seen.update({stage: args[0]})
        )
    with torch.no_grad():
        maps = v2(images(1, 3, 67, 53).double())
    for stage, m in enumerate(maps[:3], start=2):
        torch.testing.assert_close(seen[stage], m, rtol=0, atol=0)
    for m in maps:
        torch.testing.assert_close(m.mean(dim=1), torch.zeros_like(m[:, 0]))
        torch.testing.assert_close(m.var(dim=1, correction=0), torch.ones_like(m[:, 0]), rtol=1e-3, atol=0)
    names = {name.split('.')[0] for name, _ in PyramidVisionTransformer(ARCH).named_parameters()}
    assert names == {f'{part}{stage}' for part in ('patch_embed', 'pos_embed', 'block') for stage in (1, 2, 3, 4)}


def test_the_class_tokens_entry_is_no_position_of_the_map():
    model, x = fill(PyramidVisionTransformer(ARCH)).train(), images(2, 3, 67, 53)
    loss_of(model(x)).backward()
    assert not model.pos_embed4.grad[:, 0].any()
    assert model.pos_embed4.grad[:, 1:].any()
    with torch.no_grad():
        before = model(x)
        model.pos_embed4[:, 0] += 1
        torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    assert model.class_position.shape == (1, 1, 32)
    assert torch.equal(model.class_position[0, 0], model.pos_embed4[0, 0])


@pytest.mark.parametrize(
    ('options', 'arch'), [(dict(out_indices=(0, 2)), ARCH), ({}, dict(ARCH, sr_ratios=(8, 4, 2, 2)))]
)
def test_a_model_that_takes_no_class_token(options, arch):
    model = PyramidVisionTransformer(arch, **options)
    with pytest.raises(ValueError, match='last stage, without spatial reduction') as error:
        _ = model.class_position
    assert str(model.out_indices) in str(error.value)
    assert str(model.sr_ratios) in str(error.value)


# ------------------------------------------------------------------------------------------- attention and mlp
def formula(attn: Attention, x: Tensor, source: Tensor) -> Tensor:
    """Attention of all tokens of x to those of ``source`` (B, S, C), head by head."""
    C, d = x.shape[-1], x.shape[-1] // attn.num_heads
    q, k, v = attn.q(x.flatten(1, 2)), *attn.kv(source).split([C, C], dim=-1)
    heads = []
    for start in range(0, C, d):
        part = slice(start, start + d)
        weights = torch.softmax(q[..., part] @ k[..., part].mT / math.sqrt(d), dim=-1)
        heads.append(weights @ v[..., part])
    return attn.proj(torch.cat(heads, dim=-1)).reshape(x.shape)


@pytest.mark.parametrize(('sr_ratio', 'rows', 'columns'), [(1, 5, 9), (2, 2, 4), (4, 1, 2), (5, 1, 1)])
def test_reduction_by_convolution_drops_the_remainder(sr_ratio, rows, columns):
    attn = fill(Attention(12, 3, sr_ratio=sr_ratio)).double()
    x = images(2, 5, 9, 12).double()
    source = x
    if sr_ratio > 1:
        patches = (
            x[:, : rows * sr_ratio, : columns * sr_ratio].unfold(1, sr_ratio, sr_ratio).unfold(2, sr_ratio, sr_ratio)
        )
        source = torch.einsum('bijcyx,ocyx->bijo', patches, attn.sr.weight) + attn.sr.bias
        source = F.layer_norm(source, (12,), attn.norm.weight, attn.norm.bias, 1e-5)
    assert source.shape == (2, rows, columns, 12)
    torch.testing.assert_close(attn(x), formula(attn, x, source.flatten(1, 2)))


@pytest.mark.parametrize(('size', 'padded'), [((5, 20), (8, 20)), ((20, 5), (20, 8)), ((3, 1), (8, 8))], ids=str)
def test_a_map_smaller_than_the_kernel_is_padded_to_one(size, padded):
    """timm, mmdet and the official code fail there: see the next test."""
    attn = fill(Attention(12, 3, sr_ratio=8)).double()
    x = images(2, *size, 12).double()
    larger = torch.zeros(2, *padded, 12, dtype=torch.float64)
    larger[:, : size[0], : size[1]] = x
    source = attn.reduce(larger)
    assert source.shape[1:3] == (padded[0] // 8, padded[1] // 8)
    torch.testing.assert_close(attn(x), formula(attn, x, source.flatten(1, 2)))


def test_sizes_that_the_peers_refuse():
    x = images(2, 3, 20, 128).double()
    for cls in (PyramidVisionTransformer, PyramidVisionTransformerV2):
        model = fill(cls(DEEPER, out_indices=(0, 1))).double().eval()
        whole = fill(cls(DEEPER)).double().eval()
        peers = [mmdet_pyramid(whole)]
        if cls is PyramidVisionTransformerV2:
            peers.append(TimmPyramid(whole, linear=False))
        assert all(m.isfinite().all() for m in model(x))
        for peer in peers:
            with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
                peer(x)


@pytest.mark.parametrize('size', [(7, 7), (23, 16), (2, 3), (1, 30)], ids=str)
def test_linear_reduction(size):
    attn = fill(Attention(12, 3, sr_ratio=8, linear=True)).double()
    assert attn.sr.weight.shape == (12, 12, 1, 1)
    x = images(2, *size, 12).double()
    pooled = torch.empty(2, 7, 7, 12, dtype=torch.float64)
    for i in range(7):
        for j in range(7):
            rows = slice(i * size[0] // 7, math.ceil((i + 1) * size[0] / 7))
            columns = slice(j * size[1] // 7, math.ceil((j + 1) * size[1] / 7))
            pooled[:, i, j] = x[:, rows, columns].mean(dim=(1, 2))
    source = F.linear(pooled, attn.sr.weight[..., 0, 0], attn.sr.bias)
    source = F.gelu(F.layer_norm(source, (12,), attn.norm.weight, attn.norm.bias, 1e-5))
    torch.testing.assert_close(attn(x), formula(attn, x, source.flatten(1, 2)))


def test_the_linear_variant_pools_in_all_four_stages():
    model, keys = PyramidVisionTransformerV2(LINEAR).eval(), []
    for index in range(4):
        block = model.blocks(index)[0]
        assert block.attn.linear
        assert block.mlp.relu
        block.attn.kv.register_forward_hook(lambda module, args, output: keys.append(tuple(args[0].shape[:3])))
    with torch.no_grad():
        model(images(2, 3, 67, 96))
    assert keys == [(2, 7, 7)] * 4
    plain = PyramidVisionTransformerV2(ARCH)
    assert not any(plain.blocks(index)[0].mlp.relu for index in range(4))
    assert not hasattr(plain.block4[0].attn, 'sr')


@pytest.mark.parametrize('relu', [False, True])
def test_feed_forward_with_convolution(relu):
    mlp, x = fill(ConvMlp(6, 12, relu=relu)).double(), images(2, 5, 9, 6).double()
    hidden = F.linear(x, mlp.fc1.weight, mlp.fc1.bias)
    if relu:
        hidden = hidden.clamp(min=0)
    padded = F.pad(hidden, (0, 0, 1, 1, 1, 1))
    mixed = mlp.dwconv.dwconv.bias + sum(
        mlp.dwconv.dwconv.weight[:, 0, i, j] * padded[:, i : i + 5, j : j + 9] for i in range(3) for j in range(3)
    )
    expected = F.linear(F.gelu(mixed), mlp.fc2.weight, mlp.fc2.bias)
    torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize('name', MODELS)
def test_attention_backends_agree(name):
    cls, arch = MODELS[name]
    results = []
    for backend in ('reference', 'sdpa', 'auto'):
        model = fill(cls(arch, attn_backend=backend)).double().train()
        assert {m.attn_backend for m in model.modules() if isinstance(m, Attention)} == {backend}
        results.append((*maps_and_image_gradient(model, (67, 53)), gradients(model)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(results[2], results[1], rtol=0, atol=0)


# -------------------------------------------------------------------------------------- building and options
@pytest.mark.parametrize(
    ('cls', 'arch', 'entry'),
    [(PyramidVisionTransformer, arch, f'pvt_{arch}') for arch in PyramidVisionTransformer.ARCHS]
    + [
        (PyramidVisionTransformerV2, arch, f'pvtv2_{arch}'.replace('-', '_'))
        for arch in PyramidVisionTransformerV2.ARCHS
    ],
)
def test_parameters_are_those_of_the_dense_counts(shared_facts, cls, arch, entry):
    counts = json.loads((shared_facts / 'manifests/_dense_counts.json').read_text())
    with torch.device('meta'):
        model = cls(arch)
    assert sum(parameter.numel() for parameter in model.parameters()) == counts[entry]['backbone']


def test_every_variant_has_a_count():
    assert (len(PyramidVisionTransformer.ARCHS), len(PyramidVisionTransformerV2.ARCHS)) == (4, 7)


@pytest.mark.parametrize('name', MODELS)
def test_only_the_stages_that_an_output_needs_are_built(name):
    cls, arch = MODELS[name]
    model = cls(arch, out_indices=(1,), frozen_stages=4)
    assert {re.search(r'\d', name)[0] for name, _ in model.named_parameters()} == {'1', '2'}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.out_strides == (8,)
    rest = {name for name, _ in cls(arch).named_parameters()} - {name for name, _ in model.named_parameters()}
    assert all(model.is_unbuilt(name) for name in rest)
    assert not any(model.is_unbuilt(name) for name, _ in model.named_parameters())
    assert not model.is_unbuilt('norm.weight')


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (0,), (1, 2)])
def test_stochastic_depth_rises_over_all_blocks(out_indices):
    """However many of them are built."""
    for cls in (PyramidVisionTransformer, PyramidVisionTransformerV2):
        model = cls(dict(ARCH, depths=(2, 1, 3, 1)), drop_path_rate=0.3, out_indices=out_indices)
        rates = [block.drop_path.drop_prob for i in range(out_indices[-1] + 1) for block in model.blocks(i)]
        assert rates == pytest.approx([0.05 * index for index in range(7)][: len(rates)])
        assert len(rates) == (2, 3, 6, 7)[out_indices[-1]]


@pytest.mark.parametrize('version', ['v1', 'v2'])
def test_initial_weights(version):
    """As the official code: v1 leaves its convolutions to torch, v2 draws them by their fan-out."""
    wide = dict(embed_dims=(64, 128), depths=(1, 1), num_heads=(1, 2), mlp_ratios=(4, 4), sr_ratios=(4, 2))
    model = MODELS[version][0](wide, out_indices=(0, 1))
    model.init_weights()
    deviations = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert 0.018 < module.weight.std() < 0.022, name
            assert not module.bias.any(), name
        elif isinstance(module, nn.Conv2d):
            deviations[name] = module.weight.std().item()
            assert module.bias.any() == (version == 'v1'), name
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all(), name
            assert not module.bias.any(), name
    if version == 'v1':
        # torch: uniform between +-sqrt(1 / fan-in)
        expected = {'patch_embed1.proj': (3 * 48) ** -0.5, 'block1.0.attn.sr': (3 * 64 * 16) ** -0.5}
        assert 0.019 < model.pos_embed1.std() < 0.021
        assert 0.019 < model.pos_embed2.std() < 0.021
    else:
        # sqrt(2 / fan-out), of one group for the depth-wise convolution
        expected = {
            'patch_embed1.proj': (2 / (49 * 64)) ** 0.5,
            'block1.0.attn.sr': (2 / (16 * 64)) ** 0.5,
            'block2.0.mlp.dwconv.dwconv': (2 / 9) ** 0.5,
        }
    for name, deviation in expected.items():
        assert deviations[name] == pytest.approx(deviation, rel=0.05), name


def test_initialization_by_config_comes_last():
    init_cfg = dict(type='Constant', layer='Linear', val=0.5, bias=0.25)
    model = PyramidVisionTransformerV2(ARCH, init_cfg=init_cfg)
    model.init_weights()
    assert (model.block1[0].attn.q.weight == 0.5).all()
    assert (model.block1[0].attn.q.bias == 0.25).all()
    model.block1[0].attn.q.weight.data.zero_()
    model.init_weights()  # a second call, as mmengine's, changes nothing
    assert not model.block1[0].attn.q.weight.any()


@pytest.mark.parametrize('size', [(31, 64), (64, 31), (3, 64)], ids=str)
def test_v1_refuses_an_image_without_a_patch(size):
    model = PyramidVisionTransformer(ARCH)
    with pytest.raises(ValueError, match='image is too small.*at least 32 pixels'):
        model(images(1, 3, *size))
    if min(size) > 3:
        (m,) = PyramidVisionTransformer(ARCH, out_indices=(2,))(images(1, 3, *size))
        assert m.shape[2:] == (size[0] // 16, size[1] // 16)


@pytest.mark.parametrize('name', ['v2', 'v2 linear'])
@pytest.mark.parametrize('size', [(1, 1), (9, 40)], ids=str)
def test_v2_takes_the_smallest_images(name, size):
    model = fill(MODELS[name][0](MODELS[name][1])).train()
    maps = model(images(2, 3, *size))
    assert [tuple(m.shape[2:]) for m in maps] == [tuple(math.ceil(n / s) for n in size) for s in (4, 8, 16, 32)]
    loss_of(maps).backward()
    assert_trains(model)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r'num_heads=\(1, 2, 5, 8\) has 4 entries.*depths=\(1, 1\) has 2'):
        PyramidVisionTransformer(dict(embed_dims=(8, 16), depths=(1, 1)))
    with pytest.raises(ValueError, match='embed_dims=9 is not a multiple of num_heads=2'):
        PyramidVisionTransformerV2(dict(ARCH, embed_dims=(8, 9, 24, 32)))
    with pytest.raises(ValueError, match='img_size=31 leaves stage 4 no token.*at least 32'):
        PyramidVisionTransformer(ARCH, img_size=31)
    with pytest.raises(ValueError, match='linear'):
        PyramidVisionTransformer(LINEAR)
    PyramidVisionTransformer(ARCH, img_size=31, out_indices=(0, 2))


def test_heads_of_the_variants():
    """Heads enter no shape and no count, so official weights would load into a model with others."""
    for cls in (PyramidVisionTransformer, PyramidVisionTransformerV2):
        for name in cls.ARCHS:
            assert tuple(cls.resolve_arch(name)['num_heads']) == (1, 2, 5, 8), name
