"""What a module derives from its parameters, and when it forgets it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from densevit.layers import Foldable, fold_batch_norm


class Squared(Foldable):
    """A module that counts how often it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0]))
        self.count = 0

    def square(self, factor: float = 1.0) -> torch.Tensor:
        self.count += 1
        return self.weight.square() * factor

    def forward(self, factor: float = 1.0) -> torch.Tensor:
        return self.derived(self.square, factor)


def folded() -> Squared:
    module = Squared().eval()
    module.fold()
    return module


def test_computes_once_per_argument_while_folded():
    module = folded()
    with torch.no_grad():
        assert [module(factor).item() for factor in (1.0, 1.0, 2.0, 1.0)] == [9, 9, 18, 9]
    assert module.count == 2
    assert list(module.state_dict()) == ['weight']


def test_computes_every_time_where_a_gradient_can_be_asked_for():
    module = folded()
    with torch.no_grad():
        module()
    module().backward()
    assert module.weight.grad.item() == 6


@pytest.mark.parametrize(
    'change',
    [
        lambda module: module.load_state_dict({'weight': torch.tensor([2.0])}),
        lambda module: module.double(),
        lambda module: module.train().eval(),
        lambda module: module.unfold(),
        lambda module: module.fold(),
    ],
    ids=['load_state_dict', 'dtype', 'train', 'unfold', 'fold'],
)
def test_forgets(change):
    module = folded()
    with torch.inference_mode():
        module()
    change(module)
    with torch.inference_mode():
        found = module()
    assert module.count == 2
    assert found == module.weight.detach() ** 2 and found.dtype == module.weight.dtype


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_is_folded_and_computes_its_own(copied):
    module = folded()
    with torch.no_grad():
        module()
        other = copied(module)
        other.weight.fill_(5)
        assert (other().item(), module().item()) == (25, 9)
        other.weight.fill_(7)
        assert other().item() == 25  # kept: nothing can notice a change in place


@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('axis', [0, 1])
def test_batch_norm_becomes_weight_and_bias(axis, bias, affine):
    conv = (nn.ConvTranspose2d if axis else nn.Conv2d)(3, 5, 2, bias=bias).double()
    norm = nn.BatchNorm2d(5, affine=affine).double().eval()
    for tensor in (norm.running_mean, norm.running_var, *norm.parameters()):
        nn.init.uniform_(tensor, 0.5, 2)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    expected = norm(conv(x))
    weight, offset = fold_batch_norm(conv.weight, conv.bias, norm, axis=axis)
    convolve = nn.functional.conv_transpose2d if axis else nn.functional.conv2d
    torch.testing.assert_close(convolve(x, weight, offset), expected, rtol=0, atol=1e-13)


def test_each_precision_keeps_its_own():
    class Scaled(Foldable):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def square(self) -> torch.Tensor:
            return self.linear(self.linear.weight)

        def forward(self) -> torch.Tensor:
            return self.derived(self.square)

    module = Scaled().eval()
    module.fold()
    with torch.no_grad():
        expected = module.square()
        with torch.autocast('cpu', torch.bfloat16):
            assert module().dtype == torch.bfloat16
        assert torch.equal(module(), expected)
        assert module() is module()
