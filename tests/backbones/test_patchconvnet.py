"""PatchConvNet: the contract, equality with the official arithmetic, and the golden outputs."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit.backbones.patchconvnet import PatchConvBlock, PatchConvNet
from densevit.checkpoints import load_weights
from densevit.checkpoints.patchconvnet import from_official
from densevit.inference import fold
from tests.backbones.contract import BackboneContract, fill, images, loss_of
from tests.reference import assert_summary, filled_state_dict, golden_input


class TestContract(BackboneContract):
    cls = PatchConvNet
    arch = dict(embed_dims=16, depth=4, layer_scale_init=0.1)
    channels = (16,) * 4
    strides = (16,) * 4
    compiled = dict(arch=dict(arch, depth=1), out_indices=(0,))
    stage_names = (('patch_embed.',), ('blocks.0.',), ('blocks.1.',), ('blocks.2.',), ('blocks.3.',))


# ------------------------------------------------------------------- an independent implementation, in NCHW
class Excitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = round(channels * 0.25)
        self.conv_reduce = nn.Conv2d(channels, hidden, 1)
        self.conv_expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.conv_expand(torch.relu(self.conv_reduce(mean))))


class Branch(nn.Module):
    """The branch of a block; all modules have the official names and shapes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv_pos = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.GELU(),
            Excitation(channels),
            nn.Conv2d(channels, channels, 1),
        )


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = Branch(channels)
        self.gamma_1 = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
        normed = (x - mean) / torch.sqrt(variance + 1e-6)
        normed = normed * self.norm1.weight[:, None, None] + self.norm1.bias[:, None, None]
        return x + self.gamma_1[:, None, None] * self.attn.qkv_pos(normed)


class Stem(nn.Module):
    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        widths = [3] + [channels >> (depth - 1 - step) for step in range(depth)]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:]):
            layers += [nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False)), nn.GELU()]
        self.proj = nn.Sequential(*layers[:-1])


class Column(nn.Module):
    def __init__(self, channels: int, blocks: int, stem_depth: int = 4) -> None:
        super().__init__()
        self.patch_embed = Stem(channels, stem_depth)
        self.blocks = nn.ModuleList(Block(channels) for _ in range(blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x, maps = self.patch_embed.proj(x), []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return tuple(maps)


@pytest.mark.parametrize('stem_depth', [4, 3])
@pytest.mark.parametrize('size', [(64, 96), (67, 53), (33, 128), (16, 16), (1, 7)], ids=str)
def test_equals_the_official_arithmetic(size, stem_depth):
    reference = fill(Column(16, 3, stem_depth)).double()
    arch = dict(embed_dims=16, depth=3, stem_depth=stem_depth)
    model = PatchConvNet(arch, out_indices=(0, 1, 2)).double()
    load_weights(model, reference.state_dict())

    results = []
    for each in (model, reference):
        x = images(2, 3, *size).double().requires_grad_()
        maps = each(x)
        loss_of(maps).backward()
        results.append((maps, x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)

    expected = from_official({name: p.grad for name, p in reference.named_parameters()})
    found = {f'backbone.{name}': p.grad for name, p in model.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('size', [(33, 128), (67, 53), (1, 7)], ids=str)
@pytest.mark.parametrize('batch', [1, 2])
def test_folded_computes_the_same(batch, size):
    model = fill(PatchConvNet(dict(embed_dims=16, depth=3), out_indices=(0, 1, 2))).double()
    x = images(batch, 3, *size).double()
    expected = model(x)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fold(model)
    with torch.no_grad():
        assert all(block.is_folded for block in model.blocks)
        for _ in range(2):
            torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_folded_under_autocast():
    model, x = fold(fill(PatchConvNet(dict(embed_dims=16, depth=3)))), images(2, 3, 67, 53)
    with torch.no_grad():
        (expected,) = model(x)
        with torch.autocast('cpu', torch.bfloat16):
            (found,) = model(x)
    assert (found.float() - expected).norm() < 0.1 * expected.norm()


def test_folded_with_an_adapter_in_a_block():
    """What stands in the place of ``conv_out`` is called, folded or not."""

    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model, x = fill(PatchConvNet(dict(embed_dims=16, depth=2))).double().eval(), images(1, 3, 33, 64).double()
    model.blocks[1].conv_out.__class__ = Doubled
    expected = model(x)
    with torch.no_grad():
        torch.testing.assert_close(fold(model)(x), expected, rtol=1e-12, atol=1e-12)


def test_a_block_stores_half_of_its_maps_for_the_backward_pass():
    """Of the eight maps, the inputs of the three convolutions are computed again."""
    block = fill(PatchConvBlock(16))
    x, kept = images(2, 12, 20, 16).requires_grad_(), {}
    parameters = {parameter.data_ptr() for parameter in block.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters and tensor.numel() == x.numel():
            kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(x)
    assert len(kept) == 5


def test_a_turned_image_is_another_image():
    """Height and width are never exchanged: 6 x 16 tokens are as many as 16 x 6, and other than them."""
    model = fill(PatchConvNet(dict(embed_dims=16, depth=2))).eval()
    x = images(1, 3, 96, 256)
    with torch.no_grad():
        (upright,), (turned,) = model(x), model(x.transpose(2, 3))
        for conv in (*model.patch_embed.convs, *(block.conv_depthwise for block in model.blocks)):
            conv.weight.copy_(conv.weight.transpose(2, 3).clone())
        (both,) = model(x.transpose(2, 3))
    assert not torch.allclose(turned.transpose(2, 3), upright, atol=1e-3)
    torch.testing.assert_close(both.transpose(2, 3), upright)


def test_only_the_blocks_that_an_output_needs_are_built():
    model = PatchConvNet(dict(embed_dims=16, depth=4), out_indices=(0, 1), frozen_stages=4)
    assert len(model.blocks) == 2
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_stochastic_depth_has_one_rate_and_a_sharp_scale():
    model = PatchConvNet('S60', drop_path_rate=0.3)
    assert {block.drop_path.drop_prob for block in model.blocks} == {0.3}
    assert (model.blocks[0].gamma == 1e-4).all()
    assert model.layer_scale_init == 1e-4
    with torch.device('meta'):
        scales = {arch: PatchConvNet(arch).layer_scale_init for arch in PatchConvNet.ARCHS}
    assert scales == {'S60': 1e-4} | dict.fromkeys(('S120', 'B60', 'B120', 'L60', 'L120'), 1e-6)


def test_a_stem_that_does_not_divide():
    with pytest.raises(ValueError, match='20.*multiple of 8'):
        PatchConvNet(dict(embed_dims=20, depth=1))
    with pytest.raises(ValueError, match='stem of depth 0'):
        PatchConvNet(dict(embed_dims=16, depth=1, stem_depth=0))


def test_trunk_parameters_are_those_of_the_dense_counts(shared_facts):
    counts = json.loads((shared_facts / 'manifests/_dense_counts.json').read_text())
    for arch in PatchConvNet.ARCHS:
        with torch.device('meta'):
            model = PatchConvNet(arch)
        trunk = sum(parameter.numel() for parameter in model.parameters())
        assert trunk == counts[f'patchconvnet_{arch}']['trunk_only']


def test_golden_maps(shared_facts):
    golden = json.loads((shared_facts / 'golden_outputs.json').read_text())['patchconvnet_S60']
    shapes = json.loads((shared_facts / 'manifests/patchconvnet_S60.json').read_text())
    model = PatchConvNet('S60', out_indices=(0, 29, 59)).double().eval()
    report = load_weights(model, filled_state_dict(shapes))
    assert len(report.loaded) == 4 + 13 * 60
    assert len(report.skipped) == 27 - 4

    stem = []
    model.patch_embed.register_forward_hook(lambda module, args, output: stem.append(output))
    with torch.no_grad():
        maps = model(golden_input(golden['input']))
    assert_summary(stem[0].flatten(1, 2), golden['features']['patch_embed'], 1e-9)  # (B, H, W, C) -> (B, L, C)
    for index, m in zip((0, 29, 59), maps):
        assert_summary(m.flatten(2).transpose(1, 2), golden['features'][f'blocks.{index}'], 1e-9)


def test_a_larger_map_changes_the_gate_of_a_smaller_one():
    """Squeeze-excite takes the mean of the whole map, so a crop is not the crop of the map, as documented."""
    model = fill(PatchConvNet(dict(embed_dims=16, depth=1))).eval()
    with torch.no_grad():
        block = model.blocks[0]
        x = images(1, 12, 20, 16)
        whole = block.squeeze_excite(x)
        gate = (whole / x)[0, 0, 0]
        mean = x.mean(dim=(1, 2))[0]
        se = block.squeeze_excite
        expected = torch.sigmoid(
            F.linear(F.linear(mean, se.reduce.weight, se.reduce.bias).relu(), se.expand.weight, se.expand.bias)
        )
    torch.testing.assert_close(gate, expected, rtol=1e-4, atol=1e-5)
    assert math.isclose(float((whole / x)[0, -1, -1, 3]), float(gate[3]), rel_tol=1e-4)
