"""Swin: the contract, equality with mmseg, mmdet and timm, and each trap of the official code."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit.backbones.swin import PatchMerging, SwinTransformer, TableWindowAttention, fixed_windows, two_by_two
from densevit.checkpoints import export_weights
from densevit.layers import TransformerBlock, to_nchw, to_nhwc, window_layout
from tests.backbones.contract import BackboneContract, fill, gradients, images, loss_of

ARCH = dict(embed_dims=8, depths=(2, 1, 1, 2), num_heads=(1, 2, 2, 4))
SIZES = ((64, 64), (64, 96), (67, 53), (33, 128), (101, 75), (5, 9))


class TestContract(BackboneContract):
    cls = SwinTransformer
    arch = dict(ARCH, depths=(2, 1, 1, 1))
    channels, strides = (8, 16, 32, 64), (4, 8, 16, 32)
    # with and without shift, and behind a merging
    compiled = dict(arch=dict(ARCH, depths=(2, 1), num_heads=(1, 2)), window_size=2, out_indices=(0, 1))
    # 5 x 9 and 9 x 13 tokens, then 3 x 5 and 5 x 7: one window in a row, or no padding, is a program of its own
    compiled_sizes = ((19, 35), (34, 50))
    inductor_size = (11, 9)  # 3 x 3 tokens in 2 x 2 windows: one of every mask, so they share their kernels
    exports_any_size = False  # a map of one row or column of windows is a special case for torch
    stage_names = (
        ('patch_embed.',),
        ('layers.0.', 'norm0.'),
        ('layers.1.', 'norm1.'),
        ('layers.2.', 'norm2.'),
        ('layers.3.', 'norm3.'),
    )


def maps_and_image_gradient(model: Callable, size: tuple[int, int]) -> tuple[tuple[Tensor, ...], Tensor]:
    x = images(2, 3, *size).double().requires_grad_()
    maps = tuple(model(x))
    loss_of(maps).backward()
    return maps, x.grad


def assert_same(model: nn.Module, peer: Callable, size: tuple[int, int]) -> None:
    expected = maps_and_image_gradient(peer, size)
    assert expected[1].flatten(1).any(dim=1).all()
    torch.testing.assert_close(maps_and_image_gradient(model, size), expected, rtol=1e-9, atol=1e-13)


def build(arch: dict = ARCH, **options) -> SwinTransformer:
    return fill(SwinTransformer(arch, **options)).double().eval()


# --------------------------------------------------------------------------------------------- mmseg and mmdet
def mm_swin(package: str, model: SwinTransformer) -> nn.Module:
    peer = pytest.importorskip(f'{package}.models.backbones.swin').SwinTransformer(
        embed_dims=ARCH['embed_dims'], depths=ARCH['depths'], num_heads=ARCH['num_heads'],
        window_size=model.window_size,
    ).double()  # fmt: skip
    peer.eval()  # returns nothing there
    weights = {name.removeprefix('backbone.'): tensor for name, tensor in export_weights(model, 'mm').items()}
    rest = peer.load_state_dict(weights, strict=False)
    assert not rest.unexpected_keys
    assert all(name.endswith('relative_position_index') for name in rest.missing_keys)
    return peer


@pytest.mark.parametrize('window_size', [7, 4, 3])
@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('package', ['mmseg', 'mmdet'])
def test_equals_mm(package, size, window_size):
    model = build(window_size=window_size)
    assert_same(model, mm_swin(package, model), size)


# ------------------------------------------------------------------------------------------------------- timm
class TimmSwin(nn.Module):
    """timm's Swin with the weights of ours, and the norms of ours behind its maps.

    ``always_partition`` keeps the windows and shifts of small maps, as the dense code does.
    """

    module, name = 'swin_transformer', 'SwinTransformer'

    def __init__(self, model: SwinTransformer, depths: tuple[int, ...]) -> None:
        super().__init__()
        build = getattr(pytest.importorskip(f'timm.models.{self.module}'), self.name)
        self.peer = build(
            img_size=64, embed_dim=ARCH['embed_dims'], depths=depths, num_heads=ARCH['num_heads'],
            window_size=model.window_size, always_partition=True, strict_img_size=False, num_classes=0,
        ).double().eval()  # fmt: skip
        self.norms = [getattr(model, f'norm{index}') for index in range(4)]
        rest = self.peer.load_state_dict(export_weights(model, 'timm'), strict=False)
        assert rest.missing_keys == ['norm.weight', 'norm.bias']
        assert not rest.unexpected_keys

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.peer.forward_intermediates(x, intermediates_only=True)
        return tuple(to_nchw(norm(to_nhwc(m))) for norm, m in zip(self.norms, maps))


DEEP = (2, 2, 2, 2)
FLAT = (1, 1, 1, 1)


@pytest.mark.parametrize('size', [(64, 64), (64, 128), (192, 64)], ids=str)
def test_equals_timm_where_windows_fill_every_map(size):
    model = build(dict(ARCH, depths=DEEP), window_size=2)
    assert_same(model, TimmSwin(model, DEEP), size)


@pytest.mark.parametrize('size', [(64, 96), (68, 52), (36, 128)], ids=str)
def test_equals_timm_without_shift(size):
    model = build(dict(ARCH, depths=FLAT))
    assert_same(model, TimmSwin(model, FLAT), size)


def test_timm_shifts_before_it_pads():
    """So its shifted windows hold other tokens than the dense code's, in all maps that windows do not fill."""
    model = build(dict(ARCH, depths=DEEP))
    x = images(1, 3, 68, 52).double()
    with torch.no_grad():
        for ours, theirs in zip(model(x), TimmSwin(model, DEEP)(x)):
            assert (ours - theirs).abs().max() > 1e-3


def test_timm_refuses_what_patches_do_not_fill():
    with pytest.raises(AssertionError, match='should be divisible by patch size'):
        TimmSwin(build(), ARCH['depths'])(images(1, 3, 67, 53).double())


# -------------------------------------------------------------------------------------------------- the traps
@pytest.mark.parametrize('size', [(67, 53), (33, 128)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_attention_backends_agree(size, dtype):
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10  # float32: two layers deep, and sums over thousands of tokens
    results = []
    for backend in ('reference', 'sdpa', 'auto'):
        model = fill(SwinTransformer(ARCH, attn_backend=backend)).to(dtype)
        x = images(2, 3, *size).to(dtype).requires_grad_()
        maps = model(x)
        loss_of(maps).backward()
        results.append((maps, x.grad, gradients(model)))
    torch.testing.assert_close(results[1], results[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(results[2], results[1], rtol=0, atol=0)


def test_windows_never_shrink_and_the_last_stage_is_shifted():
    seen: dict[str, tuple] = {}
    model = build()
    for name, module in model.named_modules():
        if isinstance(module, TableWindowAttention):
            module.register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args}))
    with torch.no_grad():
        model(images(1, 3, 33, 70).double())
    assert {name: args[1][:2] for name, args in seen.items()} == {
        'layers.0.blocks.0.attn': (7, 0),
        'layers.0.blocks.1.attn': (7, 3),
        'layers.1.blocks.0.attn': (7, 0),
        'layers.2.blocks.0.attn': (7, 0),
        'layers.3.blocks.0.attn': (7, 0),
        'layers.3.blocks.1.attn': (7, 3),
    }
    last, first = (seen[f'layers.{index}.blocks.1.attn'] for index in (3, 0))
    assert last[0].shape == (1, 2, 3, 64)  # smaller than one window
    assert last[1].counts == (0, 0, 0, 1)
    assert first[1].counts == (2, 1, 2, 1)
    assert [fixed_windows((9, 5), 12, index) for index in range(3)] == [(12, 0), (12, 6), (12, 0)]


def test_windows_are_laid_once_per_stage(monkeypatch):
    made = []

    def counting(*args) -> Tensor:
        made.append((*args[0][1:], args[2]))
        return window_layout(*args)

    monkeypatch.setattr('densevit.backbones.swin.window_layout', counting)
    model = build(dict(ARCH, depths=(4, 1, 6, 2)))
    with torch.no_grad():
        model(images(1, 3, 67, 53).double())
    assert made == [(17, 14, 0), (17, 14, 3), (9, 7, 0), (5, 4, 0), (5, 4, 3), (3, 2, 0), (3, 2, 3)]


@pytest.mark.parametrize('numbers', [1, 6000])
@pytest.mark.parametrize('size', [(67, 53), (33, 128), (1, 9)], ids=str)
def test_in_pieces(numbers, size, monkeypatch):
    """What is computed window by window, or some windows at a time, is what is computed at once."""
    model, x = build(dict(ARCH, depths=(2, 2, 2, 2)), window_size=4), images(2, 3, *size).double()
    with torch.no_grad():
        expected = model(x)
        monkeypatch.setattr('densevit.layers.pieces.NUMBERS', numbers)
        torch.testing.assert_close(model(x), expected, rtol=1e-11, atol=1e-12)


def test_folded():
    """The bias is kept by the size of the window."""
    model, x = build(), images(2, 3, 67, 53).double()
    with torch.no_grad():
        expected = model(x)
        for module in model.modules():
            if isinstance(module, TableWindowAttention):
                module.fold()
        for _ in range(2):
            torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
        (key,) = model.layers[0].blocks[0].attn._derived
        assert key[:2] == ('position_bias', (7,))


def test_padded_tokens_take_part():
    """They are zero behind the norm, so their keys and values are the projection's bias."""
    attn = fill(TableWindowAttention(8, 2, 4)).double()
    x = images(1, 3, 4, 8).double()
    with torch.no_grad():
        mixed = attn(x, window_layout((1, 3, 4), 4, 0, x))
        row = attn.qkv.bias.expand(1, 1, 4, -1)
        qkv = torch.cat([attn.qkv(x), row], dim=1).flatten(1, 2)  # (1, 16, 24)
        q, k, v = qkv.unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        distance = torch.arange(4)[:, None] - torch.arange(4) + 3
        index = (7 * distance[:, None, :, None] + distance[None, :, None, :]).flatten(2).flatten(0, 1)  # (16, 16)
        scores = q @ k.transpose(-2, -1) * 4**-0.5 + attn.relative_position_bias_table[index].permute(2, 0, 1)
        expected = attn.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)).unflatten(1, (4, 4))[:, :3]
    torch.testing.assert_close(mixed, expected)


def test_a_smaller_window_takes_the_middle_of_the_table():
    attn = TableWindowAttention(8, 2, 4)
    with torch.no_grad():
        attn.relative_position_bias_table.copy_(torch.arange(49)[:, None].expand(-1, 2))
    assert attn.position_table(4)[..., 0].tolist() == torch.arange(49).reshape(7, 7).tolist()
    assert attn.position_table(2)[..., 1].tolist() == [[16, 17, 18], [23, 24, 25], [30, 31, 32]]
    assert attn.position_table(1)[..., 0].tolist() == [[24]]


def test_tables_of_another_window_are_interpolated_as_officially():
    model, name = build(window_size=12), 'layers.1.blocks.0.attn.relative_position_bias_table'
    given = torch.randn(13 * 13, 2)
    found = model.resized(name, given)
    # (L, h) -> (1, h, 13, 13) -> (1, h, 23, 23) -> (L', h)
    expected = F.interpolate(given.permute(1, 0).view(1, 2, 13, 13), size=(23, 23), mode='bicubic')
    torch.testing.assert_close(found, expected.view(2, 23 * 23).permute(1, 0), rtol=0, atol=0)
    assert model.resized(name, torch.randn(13 * 13, 4)) is None  # of other heads
    assert model.resized(name, torch.randn(170, 2)) is None  # of no window
    assert model.resized(name, torch.randn(169)) is None
    assert model.resized('layers.1.blocks.0.norm1.weight', torch.randn(24)) is None


def test_order_and_padding_of_merging():
    x = torch.arange(1, 16).reshape(1, 3, 5, 1)  # rows 1..5, 6..10, 11..15
    assert two_by_two(x).tolist() == [
        [[[1, 6, 2, 7], [3, 8, 4, 9], [5, 10, 0, 0]], [[11, 0, 12, 0], [13, 0, 14, 0], [15, 0, 0, 0]]]
    ]


def test_padding_of_the_image_is_right_and_bottom():
    model, x = build(), images(1, 3, 67, 53).double()
    with torch.no_grad():
        padded = F.pad(x, (0, 3, 0, 1))
        torch.testing.assert_close(model(x), model(padded), rtol=0, atol=0)
        assert not torch.allclose(model(x)[0], model(F.pad(x, (3, 0, 1, 0)))[0])


def test_norms_and_scales_are_the_official_ones():
    model = SwinTransformer(ARCH)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 1 + 2 * 6 + 3 + 4
    assert {norm.eps for norm in norms} == {1e-5}
    assert all(module.reduction.bias is None for module in model.modules() if isinstance(module, PatchMerging))
    assert TableWindowAttention.scale is None  # d ** -0.5


def test_initial_weights_are_the_official_ones():
    model = SwinTransformer(dict(ARCH, embed_dims=32))
    for _ in range(2):
        for name, parameter in model.named_parameters():
            if name.endswith('norm.weight') or re.search(r'norm\d\.weight', name):
                assert (parameter == 1).all(), name
            elif name.endswith('bias') and not name.startswith('patch_embed.proj'):
                assert not parameter.any(), name
            elif not name.startswith('patch_embed.proj'):
                assert 0.016 < parameter.std() < 0.024, name
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(math.nan)  # also of a model that was moved off the meta device
        model.init_weights()


def test_stochastic_depth_rises_over_all_blocks():
    def rates(**options) -> list[float]:
        model = SwinTransformer(dict(ARCH, depths=(2, 2, 6, 2)), drop_path_rate=0.22, **options)
        return [block.drop_path.drop_prob for block in model.modules() if isinstance(block, TransformerBlock)]

    assert rates() == pytest.approx([0.02 * index for index in range(12)])
    assert rates(out_indices=(1,)) == pytest.approx([0, 0.02, 0.04, 0.06])


def test_only_what_an_output_needs_is_built():
    model = SwinTransformer(ARCH, out_indices=(0, 2))
    names = set(model.state_dict())
    rest = set(SwinTransformer(ARCH).state_dict()) - names
    assert {name.split('.blocks')[0] for name in rest} == {
        'layers.3', 'norm1.weight', 'norm1.bias', 'norm3.weight', 'norm3.bias',
        *(f'layers.2.downsample.{name}' for name in ('reduction.weight', 'norm.weight', 'norm.bias')),
    }  # fmt: skip
    assert all(model.is_unbuilt(name) for name in rest)
    assert not any(model.is_unbuilt(name) for name in (*names, 'layers', 'head.weight', 'norm.weight'))


def test_nothing_derived_is_stored_and_the_meta_device_is_left_whole():
    with torch.device('meta'):
        model = SwinTransformer(ARCH)
    assert not list(model.buffers())
    model = model.to_empty(device='cpu').double().eval()
    model.load_state_dict(build().state_dict())
    x = images(1, 3, 67, 53).double()
    with torch.no_grad():
        torch.testing.assert_close(model(x), build()(x), rtol=0, atol=0)


def test_parameters_are_those_of_the_dense_counts(shared_facts):
    counts = json.loads((shared_facts / 'manifests/_dense_counts.json').read_text())
    for arch, name in dict(T='tiny', S='small', B='base', L='large').items():
        with torch.device('meta'):
            model = SwinTransformer(arch)
        assert sum(parameter.numel() for parameter in model.parameters()) == counts[f'swin_{name}']['backbone']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(window_size=0), 'window_size=0'),
        (dict(arch=dict(ARCH, num_heads=(1, 2, 4))), r'num_heads=\(1, 2, 4\) must name the same number of stages'),
        (dict(arch=dict(ARCH, num_heads=(1, 2, 5, 4))), 'stage 2 has 32 channels, which num_heads=5'),
    ],
)
def test_numbers_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        SwinTransformer(**{'arch': ARCH, **options})
