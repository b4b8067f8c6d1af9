"""The feed-forward part with a depth-wise convolution, by slices and whole."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from densevit.layers import depthwise, to_nchw, to_nhwc
from densevit.layers.depthwise import depthwise_mlp
from tests.backbones.contract import fill, images

SHAPES = ((1, 33, 20, 6), (2, 9, 5, 6), (1, 1, 9, 6), (1, 9, 1, 6), (2, 1, 1, 6))
HIDDEN = 70  # two slices of 32 channels and one of 6


def layers(hidden: int = HIDDEN) -> nn.ModuleList:
    conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
    return fill(nn.ModuleList([nn.Linear(6, hidden), conv, nn.Linear(hidden, 6)]))


def formula(x: Tensor, fc1: nn.Linear, conv: nn.Conv2d, fc2: nn.Linear, relu: bool) -> Tensor:
    x = fc1(x)
    return fc2(F.gelu(to_nhwc(conv(to_nchw(F.relu(x) if relu else x)))))


@pytest.fixture
def small_slices(monkeypatch):
    monkeypatch.setattr(depthwise, 'NUMBERS', 1)


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """The widths of the slices that are computed."""
    widths: list[int] = []
    slices = depthwise._slices

    def record(x, hidden):
        for part in slices(x, hidden):
            widths.append(part.stop - part.start)
            yield part

    monkeypatch.setattr(depthwise, '_slices', record)
    return widths


def test_slices_are_large_enough_and_not_larger():
    assert list(depthwise._slices(torch.empty(1, 128, 128, 64), 512)) == [slice(i, i + 128) for i in (0, 128, 256, 384)]
    assert list(depthwise._slices(torch.empty(2, 8, 3, 64), 70)) == [slice(0, 70)]
    # no fewer than 32 channels, and a multiple of 32
    widths = [part.stop - part.start for part in depthwise._slices(torch.empty(1, 1000, 2000, 1), 70)]
    assert widths == [32, 32, 6]
    assert next(depthwise._slices(torch.empty(1, 100, 203, 64), 512)) == slice(0, 96)


@pytest.mark.parametrize('relu', [False, True])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_outputs_and_gradients_equal_the_formula(shape, relu, small_slices, steps):
    parts, x = layers().double(), images(*shape).double().requires_grad_()
    inputs, target = [x, *parts.parameters()], images(*shape, seed=2).double()
    found, expected = depthwise_mlp(x, *parts, relu=relu), formula(x, *parts, relu)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(found, inputs, target)
    assert steps == 2 * [32, 32, 6]
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, inputs, target), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize('relu', [False, True])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('fused', [True, False])
def test_inference_in_float32(shape, relu, fused, small_slices, steps, monkeypatch):
    """The activations in the pass of the product and of the convolution, and in passes of their own."""
    if not fused:
        monkeypatch.setattr(depthwise, 'has_fused_operations', lambda x: False)
    parts, x = layers(), images(*shape)
    expected = formula(x.double(), *copy.deepcopy(parts).double(), relu)
    with torch.inference_mode():
        assert depthwise.has_fused_operations(x) == (fused and torch.backends.mkldnn.is_available())
        found = depthwise_mlp(x, *parts, relu=relu)
    assert steps == [32, 32, 6]
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize('frozen', ['x', 'parameters', *'012345'])
def test_gradients_only_where_they_are_wanted(frozen, small_slices):
    parts, x = layers().double(), images(2, 9, 5, 6).double().requires_grad_(frozen != 'x')
    for index, parameter in enumerate(parts.parameters()):
        parameter.requires_grad_(frozen not in ('parameters', str(index)))
    inputs = [each for each in (x, *parts.parameters()) if each.requires_grad]
    results = [torch.autograd.grad(f(x, *parts, relu=True).square().sum(), inputs) for f in (depthwise_mlp, formula)]
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-12)


def test_training_stores_the_tokens_alone():
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    parts, x = layers(), images(2, 9, 5, 6).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        depthwise_mlp(x, *parts)
    assert sum(kept) <= x.numel() + sum(parameter.numel() for parameter in parts.parameters())


def test_tokens_across_memory(small_slices):
    parts, x = layers().double(), to_nhwc(images(2, 6, 9, 5)).double().requires_grad_()
    assert not x.is_contiguous()
    found, expected = depthwise_mlp(x, *parts), formula(x, *parts, False)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(y.square().sum(), [x, *parts.parameters()]) for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize('index', [0, 1, 2])
@pytest.mark.parametrize('training', [False, True])
def test_hooks_are_called(index, training, steps):
    parts, x, seen = layers(), images(1, 3, 4, 6), []
    with torch.set_grad_enabled(training):
        before = depthwise_mlp(x, *parts)
        assert len(steps) == 1
        parts[index].register_forward_hook(lambda module, args, output: seen.append(output.shape))
        torch.testing.assert_close(depthwise_mlp(x, *parts), before, rtol=1e-5, atol=1e-5)
    assert len(seen) == len(steps) == 1


@pytest.mark.parametrize('training', [False, True])
def test_adapters_are_called(training, steps):
    parts, x = layers(), images(1, 3, 4, 6)
    with torch.set_grad_enabled(training):
        before = depthwise_mlp(x, *parts)
        parts[2].__class__ = Doubled
        torch.testing.assert_close(depthwise_mlp(x, *parts), 2 * before, rtol=1e-5, atol=1e-5)
    assert len(steps) == 1


@pytest.mark.parametrize('training', [False, True])
def test_autocast_narrows_as_ever(training, steps):
    parts, x = layers(), images(1, 3, 4, 6)
    with torch.set_grad_enabled(training), torch.autocast('cpu', torch.bfloat16):
        y = depthwise_mlp(x, *parts)
        torch.testing.assert_close(y, formula(x, *parts, False), rtol=0, atol=0)
    assert y.dtype == torch.bfloat16
    assert not steps


def test_operations_are_counted():
    parts, x = layers(), images(2, 9, 5, 6)
    counts = []
    for function in (depthwise_mlp, lambda x, *parts: formula(x, *parts, False)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            function(x, *parts)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_no_tokens():
    assert depthwise_mlp(images(0, 3, 4, 6), *layers()).shape == (0, 3, 4, 6)


def test_under_function_transforms():
    parts, x = layers().double(), images(3, 1, 2, 4, 6).double()
    with torch.no_grad():
        found = torch.func.vmap(lambda x: depthwise_mlp(x, *parts))(x)
        torch.testing.assert_close(found, torch.stack([formula(each, *parts, False) for each in x]))


def test_backward_within_autocast():
    """Of a forward pass outside of it: the gradients keep their precision."""
    parts, x = layers(), images(2, 9, 5, 6).requires_grad_()
    inputs = [x, *parts.parameters()]
    expected = torch.autograd.grad(depthwise_mlp(x, *parts).square().sum(), inputs)
    loss = depthwise_mlp(x, *parts).square().sum()
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(torch.autograd.grad(loss, inputs), expected, rtol=0, atol=0)


def test_a_compiled_program_keeps_the_slices(small_slices, steps):
    fc1, conv, fc2 = layers()
    x = images(2, 9, 5, 6)
    compiled = torch.compile(lambda x: depthwise_mlp(x, fc1, conv, fc2), backend='aot_eager', fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x), depthwise_mlp(x, fc1, conv, fc2))
    assert steps == [32, 32, 6] * 2
    # with gradients the compiler sees the formula, and finds their program itself
    x.requires_grad_()
    gradients = torch.autograd.grad(compiled(x).square().sum(), [x, conv.weight])
    assert steps == [32, 32, 6] * 2
    expected = torch.autograd.grad(formula(x, fc1, conv, fc2, False).square().sum(), [x, conv.weight])
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other)


def test_an_exported_program_has_only_operations_that_others_know():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.conv, self.fc2 = layers()

        def forward(self, x: Tensor) -> Tensor:
            return depthwise_mlp(x, self.fc1, self.conv, self.fc2)

    for strict in (False, True):
        with torch.no_grad():
            graph = torch.export.export(Part(), (images(2, 9, 5, 6),), strict=strict).graph
        assert not [node for node in graph.nodes if 'densevit' in str(node.target)]
