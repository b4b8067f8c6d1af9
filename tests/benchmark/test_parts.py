"""Time by part: nested calls count once, and the parts add up to the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from densevit.benchmark import parts
from densevit.benchmark.parts import REST, part_names, part_times


class Work(nn.Module):
    """Takes as many seconds as it is told, and calls another part in the middle."""

    def __init__(self, seconds: float, clock: list[float], inner: nn.Module | None = None) -> None:
        super().__init__()
        self.seconds, self.clock = seconds, clock
        self.__dict__['inner'] = inner

    def forward(self) -> None:
        self.clock[0] += self.seconds / 2
        if self.inner is not None:
            self.inner()
        self.clock[0] += self.seconds / 2


class Model(nn.Module):
    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock
        self.backbone = Work(4.0, clock)
        self.neck = Work(1.0, clock)
        self.decode_head = Work(2.0, clock, inner=self.neck)  # a head that calls the neck

    def run(self) -> None:
        self.backbone()
        self.decode_head()
        self.clock[0] += 0.5


@pytest.fixture
def model(monkeypatch) -> Model:
    clock = [0.0]
    monkeypatch.setattr(parts.time, 'perf_counter', lambda: clock[0])
    return Model(clock)


def test_parts_add_up(model):
    times = part_times(model, model.run, torch.device('cpu'), rounds=2)
    assert times == {
        'backbone': [4.0] * 2, 'neck': [1.0] * 2, 'decode_head': [2.0] * 2, REST: [0.5] * 2, 'total': [7.5] * 2,
    }  # fmt: skip
    assert sum(seconds[0] for name, seconds in times.items() if name != 'total') == times['total'][0]


def test_the_model_is_left_as_it_was(model):
    part_times(model, model.run, torch.device('cpu'), rounds=1)
    assert all('forward' not in vars(module) for module in model.modules())

    def fail() -> None:
        raise RuntimeError

    model.backbone.inner = fail
    with pytest.raises(RuntimeError):
        part_times(model, model.run, torch.device('cpu'), rounds=1)
    assert all('forward' not in vars(module) for module in model.modules())


def test_names_of_parts(model):
    assert list(part_names(model)) == ['backbone', 'neck', 'decode_head']
    alone = nn.Linear(2, 2)
    assert part_names(alone) == {'backbone': [alone]}
    model.roi_head = nn.Module()
    model.roi_head.bbox_head, model.roi_head.mask_head = nn.ModuleList([nn.Identity(), nn.Identity()]), nn.Identity()
    assert len(part_names(model)['roi_head']) == 3
