"""Mixed precision on the CPU."""

from __future__ import annotations

import torch


def test_bf16_wrapper_computes_in_bf16_and_keeps_float32():
    from mmengine.registry import OPTIM_WRAPPERS

    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OPTIM_WRAPPERS.build(dict(type='densevit.BF16OptimWrapper', optimizer=optimizer))
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        out = model(torch.ones(2, 4))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().sum())
    assert model.weight.dtype == torch.float32 and not torch.equal(model.weight, before)
    assert model(torch.ones(2, 4)).dtype == torch.float32
