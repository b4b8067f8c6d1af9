"""Parameter groups are merged by their settings, and every parameter is updated as before."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

PARAMWISE = dict(norm_decay_mult=0.0, custom_keys={'head': dict(lr_mult=10.0), 'head.bias': dict(decay_mult=0.5)})


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4))
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(4))  # the model's own, no part's

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(x) * self.scale)


def wrapper(net: nn.Module, constructor: str, **options):
    return build_optim_wrapper(
        net,
        dict(
            constructor=constructor,
            optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.1, **options),
            paramwise_cfg=PARAMWISE,
        ),
    )


def test_one_group_for_each_setting_in_order_of_the_parameters():
    net = Net()
    optimizer = wrapper(net, 'densevit.GroupedOptimWrapperConstructor').optimizer
    names = {parameter: name for name, parameter in net.named_parameters()}
    assert [[names[parameter] for parameter in group['params']] for group in optimizer.param_groups] == [
        ['scale', 'trunk.0.weight', 'trunk.0.bias', 'trunk.2.weight', 'trunk.2.bias'],
        ['trunk.1.weight', 'trunk.1.bias', 'trunk.3.weight', 'trunk.3.bias'],
        ['head.weight'],
        ['head.bias'],
    ]
    settings = [(group['lr'], group['weight_decay']) for group in optimizer.param_groups]
    assert settings == [(1e-2, 0.1), (1e-2, 0.0), (1e-1, 0.1), (1e-2, 0.05)]


@pytest.mark.parametrize('fused', [False, True])
def test_updates_are_those_of_single_groups(fused):
    torch.manual_seed(0)
    reference, net = Net().double(), Net().double()
    net.load_state_dict(reference.state_dict())
    before = wrapper(reference, 'DefaultOptimWrapperConstructor')
    after = wrapper(net, 'densevit.GroupedOptimWrapperConstructor', fused=fused)
    assert len(before.optimizer.param_groups) > len(after.optimizer.param_groups)
    for _ in range(3):
        x = torch.randn(5, 4, dtype=torch.float64)
        for model, optimizer in ((reference, before), (net, after)):
            optimizer.update_params(model(x).square().mean())
    for (name, expected), found in zip(reference.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12, msg=name)


def test_without_paramwise_settings_there_is_one_group():
    optimizer = build_optim_wrapper(
        Net(),
        dict(constructor='densevit.GroupedOptimWrapperConstructor', optimizer=dict(type='SGD', lr=0.1)),
    ).optimizer
    assert len(optimizer.param_groups) == 1
