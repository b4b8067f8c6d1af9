"""Recording: who records, for how long, and attention rollout against products of whole matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from densevit.layers.attention_layer import GlobalAttention
from densevit.layers.attention_record import Recordable, record_attention
from tests.layers.test_attention_layer import HEADS, B, random, windowed_layer


class Layer(Recordable):
    """Hands over what it is given."""

    def forward(self, layer):
        if self.recorder is not None:
            self.recorder(layer)
        return 1


def square(size=(2, 3), extra=1) -> tuple[GlobalAttention, Tensor]:
    q, k = (random(B, HEADS, extra + size[0] * size[1], 4) for _ in range(2))
    layer = GlobalAttention(q, k, query_size=size, key_size=size, is_square=True, kind='full')
    return layer, layer.weights()


def record(layers, recorded='*', names=None):
    names = names or [f'stages.0.blocks.{index}' for index in range(len(layers))]
    modules = [Layer() for _ in layers]
    with record_attention(zip(names, modules, [8] * len(names), strict=True), recorded, owner='Model') as found:
        for module, layer in zip(modules, layers, strict=True):
            module(layer)
    assert all(module.recorder is None and 'recorder' not in vars(module) for module in modules)
    return found


def test_layers_by_name_in_the_order_of_the_model():
    layers = [square()[0] for _ in range(3)]
    found = record(layers, names=['stages.0.blocks.0', 'stages.1.blocks.0', 'pool'])
    assert list(found) == ['stages.0.blocks.0', 'stages.1.blocks.0', 'pool']
    assert list(found.values()) == layers
    assert [layer.name for layer in layers] == list(found)
    assert {layer.stride for layer in layers} == {8}
    assert {stage: len(members) for stage, members in found.stages().items()} == {
        'stages.0': 1,
        'stages.1': 1,
        'pool': 1,
    }


def test_some_layers():
    names = ['stages.0.blocks.0', 'stages.1.blocks.0', 'stages.1.blocks.1', 'pool']
    layers = [square()[0] for _ in names]
    assert list(record(layers, 'stages.1.*', names)) == names[1:3]
    assert list(record(layers, ['pool', '*.0.blocks.0'], names)) == [names[0], names[3]]
    with pytest.raises(ValueError, match=r"no attention layer 'stage.1.blocks.0'; did you mean 'stages.1.blocks.0'"):
        record(layers, 'stage.1.blocks.0', names)
    with (
        pytest.raises(ValueError, match='PatchConvNet has no attention layer to record'),
        record_attention([], owner='PatchConvNet'),
    ):
        pass


def test_the_last_pass_counts():
    module = Layer()
    first, last = square()[0], square()[0]
    with record_attention([('stages.0.blocks.0', module, 4)], owner='Model') as found:
        with pytest.raises(KeyError, match='nothing is recorded: run the model inside the with statement'):
            found['stages.0.blocks.0']
        module(first)
        module(last)
    module(first)
    assert found['stages.0.blocks.0'] is last
    with pytest.raises(KeyError, match="did you mean 'stages.0.blocks.0'"):
        found['stages.0.blocks.9']


def test_recording_ends_with_an_error_too():
    module = Layer()
    with pytest.raises(ZeroDivisionError), record_attention([('a', module, 4)], owner='Model'):
        raise ZeroDivisionError
    assert module.recorder is None


def test_one_recording_at_a_time():
    module = Layer()
    with record_attention([('a', module, 4)], owner='Model') as outer:
        with (
            pytest.raises(ValueError, match=r'Model is being recorded already \(a\)'),
            record_attention([('a', module, 4)], owner='Model'),
        ):
            pass
        module(square()[0])
    assert len(outer) == 1


def rolled(matrices: list[Tensor]) -> Tensor:
    """(B, N, N), first layer first."""
    product = torch.eye(matrices[0].shape[-1], dtype=torch.float64).expand(B, -1, -1)
    for matrix in matrices:
        product = (0.5 * torch.eye(matrix.shape[-1]) + 0.5 * matrix.mean(1)) @ product
    return product


def test_rollout_of_full_attention():
    layers, matrices = zip(*(square() for _ in range(3)), strict=True)
    expected = rolled(matrices)
    found = record(layers)
    for query, row in (((1, 2), 6), (0, 0)):
        rollout = found.rollout('stages.0', query)
        torch.testing.assert_close(rollout.map.flatten(1), expected[:, row, 1:], rtol=0, atol=1e-13)
        torch.testing.assert_close(rollout.rest[:, 0], expected[:, row, 0], rtol=0, atol=1e-13)
    torch.testing.assert_close(
        found.rollout('stages.0').map.flatten(1), expected[:, 1:, 1:].mean(1), rtol=0, atol=1e-13
    )


def test_rollout_of_windows():
    (one, first, _), (two, second, _) = windowed_layer((5, 7), 3, 0), windowed_layer((5, 7), 3, 1)
    expected = rolled([first, second])
    found, rest = record([one, two]).rollout('stages.0', (2, 3))
    assert found.shape == (B, 1, 5, 7)
    torch.testing.assert_close(found.flatten(1), expected[:, 2 * 7 + 3], rtol=0, atol=1e-13)
    torch.testing.assert_close(found.sum((1, 2, 3)) + rest[:, 0], torch.ones(B).double(), rtol=0, atol=1e-13)
    assert (rest > 0).all()  # 5 x 7 tokens do not fill windows of 3 x 3


def test_rollout_where_it_is_not_defined():
    reduced = GlobalAttention(
        random(B, 1, 12, 4), random(B, 1, 2, 4), query_size=(3, 4), key_size=(1, 2), kind='reduced to 1 x 2'
    )
    found = record([square()[0], reduced])
    with pytest.raises(ValueError, match=r'no rollout is defined for stages.0: stages.0.blocks.1 \(reduced to 1 x 2\)'):
        found.rollout('stages.0')
    with pytest.raises(ValueError, match="stage='stages.4' is not recorded; recorded are stages.0"):
        found.rollout('stages.4')
    with pytest.raises(ValueError, match='needs all of its blocks, and stages.0.blocks.0 is not recorded'):
        record([square()[0], square()[0]], '*.1').rollout('stages.0')
