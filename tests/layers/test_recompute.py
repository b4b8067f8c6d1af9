"""A layer whose input is computed again is the layer, in results and gradients, with less in memory."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit.layers.recompute import layer_of
from tests.backbones.contract import fill

LAYERS = {
    'linear': lambda: nn.Linear(8, 5),
    'linear without bias': lambda: nn.Linear(8, 5, bias=False),
    'convolution': lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
    'strided convolution': lambda: nn.Conv2d(8, 4, (3, 2), stride=2, padding=(1, 0), bias=False),
}


def given(layer: nn.Module, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(2, 5, 7, 8, dtype=dtype)
    x = x.permute(0, 3, 1, 2) if isinstance(layer, nn.Conv2d) else x
    return x.requires_grad_()


def recomputing(layer, function, x, *others):
    return layer_of(layer, function, x, *others)


def run(layer: nn.Module, x: Tensor, function, how) -> tuple[Tensor, tuple[Tensor, ...]]:
    found = how(layer, function, x)
    target = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    inputs = [t for t in (x, *layer.parameters()) if t.requires_grad]
    return found, torch.autograd.grad((found * target).sum(), inputs)


def plain(layer, function, x):
    return layer(function(x))


@pytest.mark.parametrize('kind', LAYERS)
@pytest.mark.parametrize('function', [F.gelu, lambda x: x * x.mean()], ids=['gelu', 'other'])
def test_equals_the_layer(kind, function):
    layer = fill(LAYERS[kind]()).double()
    x = given(layer)
    before = x.detach().clone()
    torch.testing.assert_close(
        run(layer, x, function, recomputing), run(layer, x, function, plain), rtol=1e-12, atol=1e-12
    )
    assert torch.equal(x, before)


def test_the_function_learns():
    layer, norm = fill(nn.Linear(8, 5)).double(), fill(nn.LayerNorm(8)).double()
    x = given(layer)

    def normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, (8,), weight, bias)

    inputs = [x, *layer.parameters(), *norm.parameters()]
    grads = [
        torch.autograd.grad(found.square().sum(), inputs)
        for found in (layer_of(layer, normed, x, norm.weight, norm.bias, y=norm(x)), layer(norm(x)))
    ]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('kind', ['linear', 'convolution'])
def test_second_derivatives(kind):
    layer = fill(LAYERS[kind]()).double()
    x = given(layer)
    results = []
    for how in (recomputing, plain):
        (grad,) = torch.autograd.grad(how(layer, F.gelu, x).square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), [x, layer.weight]))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


def test_functional_calls():
    """The weights that the forward pass was called with count, not those that the layer has afterwards."""
    layer = fill(nn.Linear(8, 5)).double()
    x = given(layer).detach()
    others = {name: 2 * p.detach() for name, p in layer.named_parameters()}
    module = nn.Module()
    module.layer = layer
    grads = []
    for how in (recomputing, plain):
        module.forward = lambda x, how=how: how(layer, F.gelu, x)
        parameters = {f'layer.{name}': p for name, p in others.items()}
        loss = lambda p: torch.func.functional_call(module, p, (x,)).square().sum()  # noqa: E731, B023
        grads.append(torch.func.grad(loss)(parameters))
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('frozen', ['weight', 'bias', 'input'])
def test_frozen_parts(frozen):
    layer = fill(nn.Linear(8, 5)).double()
    x = given(layer)
    (x if frozen == 'input' else getattr(layer, frozen)).requires_grad_(False)
    torch.testing.assert_close(run(layer, x, F.gelu, recomputing), run(layer, x, F.gelu, plain), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('kind', ['linear', 'convolution'])
def test_autocast(kind):
    layer = fill(LAYERS[kind]())
    x = given(layer, torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        results = [how(layer, F.gelu, x) for how in (recomputing, plain)]
    grads = [torch.autograd.grad(r.float().square().sum(), [x, *layer.parameters()]) for r in results]
    assert results[0].dtype == torch.bfloat16
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    for found, expected in zip(*grads):
        assert found.dtype == torch.float32
        assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize('kind', ['linear', 'convolution'])
def test_the_input_of_the_layer_is_not_stored(kind):
    layer = LAYERS[kind]()
    x, kept = given(layer.double()), []
    weights = {parameter.data_ptr() for parameter in layer.parameters()}
    for how in (recomputing, plain):
        storages: dict[int, int] = {}

        def keep(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            if tensor.data_ptr() not in weights:
                storages[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found = how(layer, F.gelu, x)
        kept.append(sum(storages.values()))
        del found
    assert kept[0] == x.numel()
    assert kept[1] == 2 * x.numel()


def test_hooks_and_adapters_are_called():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    plain_layer = fill(nn.Linear(8, 5)).double()
    adapted = fill(Doubled(8, 5)).double()
    x, seen = given(plain_layer), []
    torch.testing.assert_close(recomputing(adapted, F.gelu, x), 2 * recomputing(plain_layer, F.gelu, x))
    hooked = copy.deepcopy(plain_layer)
    hooked.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    recomputing(hooked, F.gelu, x)
    torch.testing.assert_close(seen, [F.gelu(x)])
