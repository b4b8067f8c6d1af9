"""Swin V2: the contract, equality with transformers and timm, and each trap of the official code."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit.backbones.swin import WindowAttention
from densevit.backbones.swin_v2 import CosineWindowAttention, PostNormBlock, SwinTransformerV2
from densevit.checkpoints import export_weights
from densevit.layers import to_nchw, to_nhwc, window_layout
from tests.backbones.contract import BackboneContract, fill, gradients, images, loss_of
from tests.backbones.test_swin import ARCH, DEEP, FLAT, SIZES, TimmSwin, assert_same


class TestContract(BackboneContract):
    cls = SwinTransformerV2
    arch = dict(ARCH, depths=(2, 1, 1, 1))
    channels, strides = (8, 16, 32, 64), (4, 8, 16, 32)
    # with and without shift, and behind a merging
    compiled = dict(arch=dict(ARCH, depths=(2, 1), num_heads=(1, 2)), window_size=2, out_indices=(0, 1))
    # 5 x 9 and 9 x 13 tokens, then 3 x 5 and 5 x 7: one window in a row, or no padding, is a program of its own
    compiled_sizes = ((19, 35), (34, 50))
    inductor = dict(arch=dict(ARCH, depths=(1,), num_heads=(1,)), out_indices=(0,))  # the shifted one is Swin's
    inductor_size = (11, 9)
    exports_any_size = False  # a map of one row or column of windows is a special case for torch
    stage_names = (
        ('patch_embed.',),
        ('layers.0.', 'norm0.'),
        ('layers.1.', 'norm1.'),
        ('layers.2.', 'norm2.'),
        ('layers.3.', 'norm3.'),
    )


def build(arch: dict = ARCH, **options) -> SwinTransformerV2:
    return fill(SwinTransformerV2(arch, **options)).double().eval()


# ------------------------------------------------------------------------------------------------ transformers
class TransformersSwin(nn.Module):
    """transformers' Swin V2 with the weights of ours, and the norms of ours behind its maps.

    Its windows are those of the size that it was built for, here large, so none shrinks, and it pads before it shifts:
    it is dense. (It adds the mask twice; a weight of exp(-100) or of exp(-200) is the same nothing.)
    """

    def __init__(self, model: SwinTransformerV2, pretrained: tuple[int, ...] = (0, 0, 0, 0)) -> None:
        super().__init__()
        transformers = pytest.importorskip('transformers')
        config = transformers.Swinv2Config(
            image_size=1024, embed_dim=ARCH['embed_dims'], depths=list(ARCH['depths']),
            num_heads=list(ARCH['num_heads']), window_size=model.window_size, pretrained_window_sizes=list(pretrained),
            out_indices=[1, 2, 3, 4],
        )  # fmt: skip
        self.peer = transformers.Swinv2Backbone(config).double().eval()
        self.norms = [getattr(model, f'norm{index}') for index in range(4)]
        rest = self.peer.load_state_dict(export_weights(model, 'transformers'), strict=False)
        assert not rest.unexpected_keys
        assert all('relative' in name for name in rest.missing_keys)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.peer(x).feature_maps
        return tuple(to_nchw(norm(to_nhwc(m))) for norm, m in zip(self.norms, maps))


@pytest.mark.parametrize('window_size', [8, 5, 2])
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_equals_transformers(size, window_size):
    model = build(window_size=window_size)
    assert_same(model, TransformersSwin(model), size)


@pytest.mark.parametrize('size', [(64, 96), (67, 53)], ids=str)
def test_equals_transformers_with_other_windows_before(size):
    pretrained = (6, 6, 6, 3)
    model = build(window_size=8, pretrained_window_sizes=pretrained)
    assert_same(model, TransformersSwin(model, pretrained), size)
    with torch.no_grad():
        x = images(1, 3, *size).double()
        for ours, other in zip(model(x), build(window_size=8)(x)):
            assert (ours - other).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------------- timm
class TimmSwinV2(TimmSwin):
    """timm's Swin V2, as :class:`TimmSwin`."""

    module, name = 'swin_transformer_v2', 'SwinTransformerV2'


@pytest.mark.parametrize('size', [(64, 64), (64, 128), (192, 64)], ids=str)
def test_equals_timm_where_windows_fill_every_map(size):
    model = build(dict(ARCH, depths=DEEP), window_size=2)
    assert_same(model, TimmSwinV2(model, DEEP), size)


@pytest.mark.parametrize('size', [(64, 96), (68, 52), (36, 128)], ids=str)
def test_equals_timm_without_shift(size):
    model = build(dict(ARCH, depths=FLAT))
    assert_same(model, TimmSwinV2(model, FLAT), size)


def test_timm_shifts_before_it_pads():
    """So its shifted windows hold other tokens than ours and transformers', in all maps that windows do not fill."""
    model = build(dict(ARCH, depths=DEEP))
    x = images(1, 3, 68, 52).double()
    with torch.no_grad():
        for ours, theirs in zip(model(x), TimmSwinV2(model, DEEP)(x)):
            assert (ours - theirs).abs().max() > 1e-3


# -------------------------------------------------------------------------------------------------- the traps
@pytest.mark.parametrize('size', [(67, 53), (33, 128)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_attention_backends_agree(size, dtype):
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10  # float32: two layers deep, and sums over thousands of tokens
    results = []
    for backend in ('reference', 'sdpa', 'auto'):
        model = fill(SwinTransformerV2(ARCH, attn_backend=backend)).to(dtype)
        x = images(2, 3, *size).to(dtype).requires_grad_()
        maps = model(x)
        loss_of(maps).backward()
        results.append((maps, x.grad, gradients(model)))
    torch.testing.assert_close(results[1], results[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(results[2], results[1], rtol=0, atol=0)


@pytest.mark.parametrize('numbers', [1, 6000])
def test_in_pieces_and_folded(numbers, monkeypatch):
    """Neither the number of windows that are computed at a time nor a kept bias changes a result."""
    model, x = build(), images(2, 3, 67, 53).double()
    with torch.no_grad():
        expected = model(x)
        monkeypatch.setattr('densevit.layers.pieces.NUMBERS', numbers)
        for module in model.modules():
            if isinstance(module, WindowAttention):
                module.fold()
        for _ in range(2):
            torch.testing.assert_close(model(x), expected, rtol=1e-11, atol=1e-12)


def test_windows_never_shrink_and_the_last_stage_is_shifted():
    seen = []
    model = build()
    for module in model.modules():
        if isinstance(module, WindowAttention):
            module.register_forward_pre_hook(
                lambda module, args: seen.append((tuple(args[0].shape[1:3]), *args[1][:2]))
            )
    with torch.no_grad():
        model(images(1, 3, 33, 70).double())
    assert seen == [
        ((9, 18), 8, 0), ((9, 18), 8, 4), ((5, 9), 8, 0), ((3, 5), 8, 0), ((2, 3), 8, 0), ((2, 3), 8, 4),
    ]  # fmt: skip


def test_padding_stands_before_the_attention_and_behind_no_norm():
    """Keys of padded tokens are zero, and values the bias alone: nothing else of the padding reaches a token."""
    attn = fill(CosineWindowAttention(8, 2)).double()
    x = images(1, 3, 4, 8).double()
    with torch.no_grad():
        mixed = attn(x, window_layout((1, 3, 4), 4, 0, x))
        qkv = attn.project(F.pad(x, (0, 0, 0, 0, 0, 1)).flatten(1, 2)[:, None])  # (1, 1, 16, 3, h, d)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)
        assert not k[..., 12:, :].any()
        torch.testing.assert_close(v[..., 12:, :].transpose(-3, -2).flatten(-2), attn.v_bias.expand(1, 1, 4, -1))
        torch.testing.assert_close(k.norm(dim=-1)[..., :12], torch.ones(1, 1, 2, 12).double())
        distance = torch.arange(4)[:, None] - torch.arange(4) + 3
        bias = attn.position_table(4)[distance[:, None, :, None], distance[None, :, None, :]]  # (4, 4, 4, 4, h)
        bias = bias.flatten(2, 3).flatten(0, 1).permute(2, 0, 1)
        out = (q @ k.transpose(-2, -1) + bias).softmax(-1) @ v  # (1, 1, h, 16, d)
        expected = attn.proj(out[:, 0].transpose(1, 2).flatten(2)).unflatten(1, (4, 4))[:, :3]
    torch.testing.assert_close(mixed, expected)


@pytest.mark.parametrize(('logit', 'factor'), [(0.0, 1.0), (math.log(10), 10.0), (5.0, 100.0), (50.0, 100.0)])
def test_the_factor_on_the_cosine_is_at_most_a_hundred(logit, factor):
    attn = fill(CosineWindowAttention(8, 2)).double()
    with torch.no_grad():
        attn.logit_scale.fill_(logit)
        q, k, _ = attn.project(images(1, 2, 4, 8).double()).unbind(3)
    torch.testing.assert_close(q.norm(dim=-1), torch.full((1, 2, 4, 2), factor).double())
    torch.testing.assert_close(k.norm(dim=-1), torch.ones(1, 2, 4, 2).double())


def test_cosines_are_those_of_normalize():
    """With and without gradients, for queries of every length: none, shorter than its eps, and long."""
    attn = fill(CosineWindowAttention(8, 2)).double()
    x = images(1, 5, 8).double() * torch.tensor([0.0, 1e-14, 1e-9, 1.0, 1e6])[:, None]
    with torch.no_grad():
        attn.q_bias.zero_()
        q, k, v = F.linear(x, attn.qkv.weight).unflatten(-1, (3, 2, 4)).unbind(2)
        factor = attn.logit_scale.exp()[:, None]
        v = v + attn.v_bias.view(2, 4)
        expected = torch.stack([F.normalize(q, dim=-1) * factor, F.normalize(k, dim=-1), v], dim=2)
        torch.testing.assert_close(attn.project(x), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(attn.project(x).detach(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ('side', 'pretrained', 'steps'),
    [
        # sign(s) * log2(1 + |s|) / 3 with s = 8 * distance / (window - 1)
        (3, 0, [-math.log2(9) / 3, -math.log2(5) / 3, 0, math.log2(5) / 3, math.log2(9) / 3]),
        (2, 3, [-math.log2(5) / 3, 0, math.log2(5) / 3]),
        (3, 2, [-math.log2(17) / 3, -math.log2(9) / 3, 0, math.log2(9) / 3, math.log2(17) / 3]),
        (1, 0, [0.0]),  # officially 0 / 0
    ],
)
def test_distances_are_logarithms(side, pretrained, steps):
    attn, seen = CosineWindowAttention(8, 2, pretrained).double(), []
    attn.cpb_mlp[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    table = attn.position_table(side)
    expected = torch.tensor(steps, dtype=torch.float64)
    rows, columns = seen[0].unbind(-1)
    torch.testing.assert_close(rows, expected[:, None].expand_as(rows), rtol=1e-6, atol=0)
    torch.testing.assert_close(columns, expected.expand_as(columns), rtol=1e-6, atol=0)
    assert table.shape == (2 * side - 1, 2 * side - 1, 2)
    assert ((table > 0) & (table < 16)).all()


def test_no_parameter_depends_on_the_window():
    shapes = [{name: p.shape for name, p in SwinTransformerV2(ARCH, window_size=w).named_parameters()} for w in (8, 24)]
    assert shapes[0] == shapes[1]


def test_initial_weights_are_the_official_ones():
    model = SwinTransformerV2(dict(ARCH, embed_dims=32))
    for _ in range(2):
        for name, parameter in model.named_parameters():
            if re.search(r'blocks\.\d+\.norm[12]\.', name) or name.endswith(('bias', '_bias')):
                assert name.startswith('patch_embed.proj') or not parameter.any(), name
            elif name.endswith('logit_scale'):
                torch.testing.assert_close(parameter, torch.full_like(parameter, math.log(10)))
            elif re.search(r'norm\d?\.weight', name):
                assert (parameter == 1).all(), name
            elif not name.startswith('patch_embed.proj'):
                assert 0.016 < parameter.std() < 0.024, name
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(math.nan)  # also of a model that was moved off the meta device
        model.init_weights()


def test_a_fresh_block_is_the_identity():
    model = SwinTransformerV2(ARCH, out_indices=(0,))
    x = images(2, 3, 67, 53)
    with torch.no_grad():
        torch.testing.assert_close(to_nhwc(model(x)[0]), model.norm0(model.patch_embed(F.pad(x, (0, 3, 0, 1)))))
    assert sum(isinstance(module, PostNormBlock) for module in model.modules()) == 2


@pytest.mark.parametrize('sizes', [(12, 12, 12), (12, 12, 12, -6)])
def test_pretrained_windows_that_do_not_fit(sizes):
    with pytest.raises(ValueError, match=re.escape(f'pretrained_window_sizes={sizes}: give one side')):
        SwinTransformerV2(ARCH, pretrained_window_sizes=sizes)
    model = SwinTransformerV2(ARCH, pretrained_window_sizes=[12, 12, 12, 6])
    assert [stage.blocks[0].attn.pretrained_window_size for stage in model.layers] == [12, 12, 12, 6]


def test_one_pretrained_window_stands_for_all_stages():
    two = dict(embed_dims=8, depths=(1, 1), num_heads=(1, 2))
    assert SwinTransformerV2(two, out_indices=(0, 1)).pretrained_window_sizes == (0, 0)
    assert SwinTransformerV2(two, out_indices=(0, 1), pretrained_window_sizes=12).pretrained_window_sizes == (12, 12)
    with pytest.raises(ValueError, match=r'pretrained_window_sizes=\(12,\).*2 in all'):
        SwinTransformerV2(two, out_indices=(0, 1), pretrained_window_sizes=(12,))


@pytest.mark.parametrize('kind', ['zeros', 'random', 'nan'])
def test_placeholders_for_tables_of_coordinates_are_ignored(kind):
    """The tables are skipped; only true ones tell the windows that the weights were trained with."""
    model = SwinTransformerV2(dict(embed_dims=8, depths=(1, 1), num_heads=(1, 2)), window_size=4, out_indices=(0, 1))
    table = {'zeros': torch.zeros, 'random': torch.rand, 'nan': lambda *s: torch.full(s, float('nan'))}[kind](
        1, 15, 15, 2
    )
    model.check_derived({'layers.0.blocks.0.attn.relative_coords_table': table})


@pytest.mark.parametrize('size', [(32, 48), (28, 44)], ids=['whole windows', 'padding'])
def test_half_precision_has_finite_gradients(size):
    """A padded key is 0: its length must not be divided by, and 1e-12 is 0 in float16."""
    model, x = SwinTransformerV2(ARCH, window_size=4).train(), images(1, 3, *size)
    with torch.autocast('cpu', torch.float16):
        loss_of(model(x)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
