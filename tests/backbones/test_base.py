"""A sound backbone passes the contract, and each way of breaking it is noticed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit.backbones.base import Backbone
from densevit.backbones.patchconvnet import PatchConvNet
from densevit.checkpoints import CheckpointError
from densevit.layers import check_drop_path_rate
from densevit.layers.patch_embed import check_channels
from tests.backbones.contract import BackboneContract


class Toy(Backbone):
    """Three convolutions of stride 2, each a stage behind the stem, which has stride 2 as well.

    Args:
        arch: a name in ``ARCHS`` or a dict with their keys.
        in_channels: channels of the image.
        out_indices: stages.
        drop_path_rate: chance that an image skips a stage's second convolution.
        frozen_stages: as the base class says.
        with_cp: as the base class says.
        attn_backend: unused.
        init_cfg: mmengine's.
    """

    ARCHS = {'small': dict(width=8), 'large': dict(width=16)}
    ARCH_DEFAULTS = dict(kernel_size=3)

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'small',
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        attn_backend: str = 'auto',
        init_cfg: Any = None,
    ) -> None:
        width = self.resolve_arch(arch)['width']
        check_drop_path_rate(drop_path_rate)
        super().__init__(
            num_stages=3,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            attn_backend=attn_backend,
            init_cfg=init_cfg,
        )
        self.stem = nn.Conv2d(in_channels, width, 3, 2, 1)
        self.layers = nn.ModuleList(Residual(width, drop_path_rate) for _ in range(self.out_indices[-1] + 1))
        self.out_channels = (width,) * len(self.out_indices)
        self.out_strides = tuple(2 ** (index + 2) for index in self.out_indices)
        self.freeze()

    def stages(self) -> Iterator[nn.Module]:
        yield self.stem
        yield from self.layers

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        check_channels(x, self.stem.in_channels)
        x, outs = self.stem(x), []
        for index, layer in enumerate(self.layers):
            x = self.run(layer, x)
            if index in self.out_indices:
                outs.append(x.contiguous())
        return tuple(outs)


class Residual(nn.Module):
    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.down = nn.Conv2d(width, width, 3, 2, 1)
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        branch = self.conv(F.gelu(x))
        if self.training and self.drop:
            branch = branch * (torch.rand(len(x), 1, 1, 1, dtype=x.dtype) > self.drop)
        return x + branch


class ToyContract(BackboneContract):
    cls = Toy
    arch = dict(width=8)
    channels = (8,) * 3
    strides = (4, 8, 16)
    stage_names = (('stem.',), ('layers.0.',), ('layers.1.',), ('layers.2.',))


class TestSoundToy(ToyContract):
    test_compiles_with_inductor = None  # takes long, and PatchConvNet has it


class ReturnsList(Toy):
    def forward(self, x):
        return list(super().forward(x))


class NotContiguous(Toy):
    def forward(self, x):
        return tuple(m.to(memory_format=torch.channels_last) for m in super().forward(x))


class WrongStrides(Toy):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.out_strides = tuple(2 ** (index + 2) for index in range(len(self.out_indices)))


class CoarseFirst(Toy):
    def forward(self, x):
        return super().forward(x)[::-1]


class CropsOddSides(Toy):
    def forward(self, x):
        return super().forward(x[..., : x.shape[-2] // 16 * 16, : x.shape[-1] // 16 * 16])


class NeverCheckpoints(Toy):
    def run(self, block, x):
        return block(x)


class ForgetsFreezingInTrain(Toy):
    def train(self, mode=True):
        return nn.Module.train(self, mode)


class FreezesModeOnly(Toy):
    def freeze(self):
        for index, stage in enumerate(self.stages()):
            if index <= self.frozen_stages:
                stage.eval()


class FreezesOneTooMany(Toy):
    def freeze(self):
        self.frozen_stages += 1
        super().freeze()
        self.frozen_stages -= 1


class DropsInEval(Toy):
    def forward(self, x):
        for layer in self.layers:
            layer.training = True
        return super().forward(x)


class NeverDrops(Toy):
    def __init__(self, *args, drop_path_rate=0.0, **options):
        super().__init__(*args, **options)


class RemembersFirstSize(Toy):
    def forward(self, x):
        self.size = getattr(self, 'size', x.shape[-2:])
        return tuple(m * (1 + self.size[0] / 100) for m in super().forward(x))


class MixesImages(Toy):
    def forward(self, x):
        return tuple(m + m.mean(dim=0, keepdim=True) for m in super().forward(x))


class HasUnusedParameter(Toy):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.unused = nn.Parameter(torch.ones(3))


class Detaches(Toy):
    def run(self, block, x):
        return super().run(block, x.detach())


class ReadsValues(Toy):
    def forward(self, x):
        return tuple(m if m.mean() > 1e6 else m + 0 for m in super().forward(x))


class KnowsOneSize(Toy):
    def forward(self, x):
        return tuple(m + 0 if x.shape[-1] == 53 else m for m in super().forward(x))  # a program for each case


class CompiledIsAnother(Toy):
    def forward(self, x):
        return tuple(m * 1.001 if torch.compiler.is_compiling() else m for m in super().forward(x))


class AlwaysFloat(Toy):
    def forward(self, x):
        return tuple(m.float() for m in super().forward(x))


class TalksWhenBuilt(Toy):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        print('hello')


class TakesAnything(Toy):
    def __init__(self, arch='small', *, drop_path_rte=None, **options):
        super().__init__(arch, **options)


BROKEN = {
    ReturnsList: ('test_maps', dict(size=(64, 96), batch=1)),
    NotContiguous: ('test_maps', dict(size=(64, 96), batch=1)),
    WrongStrides: ('test_every_choice_of_outputs', {}),
    CoarseFirst: ('test_every_choice_of_outputs', {}),
    CropsOddSides: ('test_maps', dict(size=(67, 53), batch=1)),
    NeverCheckpoints: ('test_checkpointing_changes_memory_only', dict(dropping=False)),
    ForgetsFreezingInTrain: ('test_frozen_stages', dict(frozen=1, with_cp=False)),
    FreezesModeOnly: ('test_frozen_stages', dict(frozen=1, with_cp=False)),
    FreezesOneTooMany: ('test_frozen_stages', dict(frozen=-1, with_cp=False)),
    DropsInEval: ('test_drop_rates_act_in_training_only', {}),
    NeverDrops: ('test_drop_rates_act_in_training_only', {}),
    RemembersFirstSize: ('test_no_memory_of_the_last_size', dict(sizes=((33, 128), (67, 53)))),
    MixesImages: ('test_images_of_a_batch_do_not_mix', {}),
    HasUnusedParameter: ('test_every_parameter_and_the_image_get_a_gradient', {}),
    Detaches: ('test_every_parameter_and_the_image_get_a_gradient', {}),
    ReadsValues: ('test_compiles_as_one_graph', {}),
    KnowsOneSize: ('test_compiles_as_one_graph', {}),
    CompiledIsAnother: ('test_compiles_as_one_graph', {}),
    AlwaysFloat: ('test_bfloat16', {}),
    TakesAnything: ('test_arguments_are_by_name_and_known', {}),
}


@pytest.mark.parametrize('broken', BROKEN, ids=lambda cls: cls.__name__)
def test_contract_notices(broken):
    class Contract(ToyContract):
        cls = broken

    name, arguments = BROKEN[broken]
    sound, contract = ToyContract(), Contract()
    getattr(sound, name)(**arguments)
    dynamo = torch._dynamo.exc
    refusals = (AssertionError, pytest.fail.Exception, dynamo.Unsupported, dynamo.RecompileError)
    with pytest.raises(refusals):
        getattr(contract, name)(**arguments)


def test_contract_notices_talk(capfd):
    class Contract(ToyContract):
        cls = TalksWhenBuilt

    with pytest.raises(AssertionError):
        Contract().test_building_prints_nothing(capfd)


def test_contract_notices_a_false_flag():
    class Contract(ToyContract):
        cls = Toy
        exports = False

    with pytest.raises(pytest.fail.Exception):
        Contract().test_exports_where_it_says_so(dynamic=False)


# --------------------------------------------------------------------------------------- the base itself
def test_arch_defaults_can_be_left_out_or_given():
    assert Toy.resolve_arch('large') == dict(width=16, kernel_size=3)
    assert Toy.resolve_arch(dict(width=4, kernel_size=5)) == dict(width=4, kernel_size=5)


@pytest.mark.parametrize(
    ('given', 'meant'), [(-1, (2,)), (0, (0,)), ([0, -1], (0, 2)), (range(3), (0, 1, 2)), (np.arange(2), (0, 1))]
)
def test_out_indices_may_be_a_number_or_any_sequence(given, meant):
    assert Toy(out_indices=given).out_indices == meant


@pytest.mark.parametrize('given', ['12', (1.0, 2.0), (True,), None, [[0]]], ids=repr)
def test_out_indices_are_whole_numbers(given):
    with pytest.raises(ValueError, match=re.escape(f'out_indices={given!r} must be whole numbers of 0 to 2')):
        Toy(out_indices=given)


def test_checkpointing_needs_a_gradient_to_save():
    """A frozen block without a gradient to pass on is run plainly; torch would warn otherwise."""
    model = Toy(frozen_stages=1, with_cp=True).train()
    calls = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda module, args: calls.append(module))
    maps = model(torch.randn(1, 3, 32, 48))
    assert len(calls) == 3
    sum(m.sum() for m in maps[1:]).backward()
    assert calls == [*model.layers, model.layers[2], model.layers[1]]
    calls.clear()
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 48))
    assert len(calls) == 3


def test_pretrained_loads_whole_or_not_at_all(tmp_path):
    arch = dict(embed_dims=8, depth=2, stem_depth=2)
    source = PatchConvNet(arch)
    file = tmp_path / 'weights.pth'
    torch.save(source.state_dict(), file)
    model = PatchConvNet(arch, init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    model.init_weights()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name
    wider = PatchConvNet({**arch, 'embed_dims': 16}, init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    with pytest.raises(CheckpointError, match='of another shape'):
        wider.init_weights()
