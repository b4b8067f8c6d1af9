"""The one test that every backbone goes through: what necks, heads and trainers rely on.

A family's test derives from :class:`BackboneContract`, gives its class and a tiny arch, and adds what is its own::

    class TestPatchConvNet(BackboneContract):
        cls = PatchConvNet
        arch = dict(embed_dims=16, depth=3)
        channels, strides = (16, 16, 16), (16, 16, 16)
        stage_names = (('patch_embed.',), ('blocks.0.',), ('blocks.1.',), ('blocks.2.',))
"""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import re
import shutil
import zlib
from collections.abc import Mapping
from itertools import combinations
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

SIZES = ((64, 96), (67, 53), (33, 128))


def fill(model: nn.Module) -> nn.Module:
    """Give every parameter values that depend on its name only: nothing is zero, and equal names are equal."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            numbers = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            values = torch.randn(parameter.shape, generator=numbers)
            if parameter.ndim > 1:
                values *= math.prod(parameter.shape[1:]) ** -0.5
            else:
                values = 0.2 * values + name.endswith('weight')  # norms around 1; biases and factors around 0
            parameter.copy_(values)
    return model


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss_of(maps: tuple[Tensor, ...]) -> Tensor:
    """A sum over all maps with random weights, so that nothing cancels, as a plain sum behind a norm does."""
    return sum((m.float() * images(*m.shape, seed=index)).mean() for index, m in enumerate(maps))


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_trains(model: nn.Module, names: set[str] | None = None) -> None:
    """Every parameter (of ``names``) has a finite gradient that is not all zero."""
    for name, gradient in gradients(model).items():
        if names is None or name in names:
            assert gradient is not None, f'{name} has no gradient'
            assert gradient.isfinite().all(), f'{name} has a gradient that is not finite'
            assert gradient.any(), f'{name} has a gradient of zeros'


def assert_equal(maps: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(maps, expected, rtol=0, atol=0)


class BackboneContract:
    """What a family gives, and what it must then fulfil."""

    cls: ClassVar[Any]
    arch: ClassVar[Mapping[str, Any]]  # tiny: 8 to 32 channels, few blocks
    channels: ClassVar[tuple[int, ...]]  # of every output that out_indices can name
    strides: ClassVar[tuple[int, ...]]
    ceil: ClassVar[bool] = True  # H / stride is rounded up, else down; for other rules override map_size
    # prefixes of the parameters that frozen_stages counts: those of the stem, of the first stage, ...
    stage_names: ClassVar[tuple[tuple[str, ...], ...]]
    drop_rates: ClassVar[Mapping[str, float]] = dict(drop_path_rate=0.5)
    # options of the model that is compiled, which takes seconds per block: few blocks, but one of each kind
    compiled: ClassVar[Mapping[str, Any]] = {}
    compiled_sizes: ClassVar[tuple[tuple[int, int], ...]] = ((67, 53), (33, 128))  # that one program must fit
    # changes to these options for Inductor
    inductor: ClassVar[Mapping[str, Any]] = dict(out_indices=(0,))
    inductor_size: ClassVar[tuple[int, int]] = (67, 53)
    exports: ClassVar[bool] = True  # torch.export at one size
    exports_any_size: ClassVar[bool] = True  # torch.export with H and W left open

    def map_size(self, height: int, width: int, index: int) -> tuple[int, int]:
        """H and W of output ``index``."""
        rounding, stride = math.ceil if self.ceil else math.floor, self.strides[index]
        return rounding(height / stride), rounding(width / stride)

    def build(self, **options: Any) -> Any:
        """The tiny model, all outputs unless told otherwise, filled by name."""
        options.setdefault('out_indices', tuple(range(len(self.channels))))
        return fill(self.cls(options.pop('arch', self.arch), **options))

    # ------------------------------------------------------------------------------------------ outputs
    def _check_maps(self, maps: Any, indices: tuple[int, ...], batch: int, size: tuple[int, int]) -> None:
        assert isinstance(maps, tuple)
        assert len(maps) == len(indices)
        for index, x in zip(indices, maps):
            assert x.shape == (batch, self.channels[index], *self.map_size(*size, index)), f'output {index}'
            assert x.is_contiguous(), f'output {index} is not contiguous'
            assert x.isfinite().all(), f'output {index}'

    @pytest.mark.parametrize('size', SIZES, ids=str)
    @pytest.mark.parametrize('batch', [0, 1, 2])
    def test_maps(self, size, batch):
        x, model = images(batch, 3, *size), self.build().eval()
        with torch.no_grad():
            maps = model(x)
        indices = tuple(range(len(self.channels)))
        self._check_maps(maps, indices, batch, size)
        assert all(m.dtype == torch.float32 for m in maps)
        assert model.out_indices == indices
        assert model.out_channels == self.channels
        assert model.out_strides == self.strides

    def test_every_choice_of_outputs(self):
        count = len(self.channels)
        x = images(2, 3, 67, 53)
        everything = self.build().eval()
        with torch.no_grad():
            expected = everything(x)
        choices = [*combinations(range(count), 1), (0, count - 1), tuple(range(1, count))]
        for indices in {tuple(sorted(set(choice))) for choice in choices if choice}:
            model = self.build(out_indices=indices).eval()
            with torch.no_grad():
                maps = model(x)
            self._check_maps(maps, indices, 2, (67, 53))
            assert_equal(maps, tuple(expected[index] for index in indices))
            assert model.out_indices == indices
            assert model.out_channels == tuple(self.channels[index] for index in indices)
            assert model.out_strides == tuple(self.strides[index] for index in indices)
            # a part that no output needs would stop DistributedDataParallel
            loss_of(model.train()(x)).backward()
            assert_trains(model)

    def test_negative_out_indices_count_from_the_end(self):
        count = len(self.channels)
        assert self.build(out_indices=(-count, -1)).out_indices == tuple(sorted({0, count - 1}))

    def test_default_outputs_are_valid(self):
        model = self.cls(self.arch)
        assert model.out_channels == tuple(self.channels[index] for index in model.out_indices)

    def test_channels_last_images_give_the_same_contiguous_maps(self):
        x, model = images(2, 3, 67, 53), self.build().eval()
        with torch.no_grad():
            maps, expected = model(x.contiguous(memory_format=torch.channels_last)), model(x)
        self._check_maps(maps, model.out_indices, 2, (67, 53))
        torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)  # convolutions may sum in another order

    def test_images_of_a_batch_do_not_mix(self):
        x, model = images(3, 3, 33, 128), self.build().double().eval()
        with torch.no_grad():
            together = model(x.double())
            alone = [model(image[None].double()) for image in x]
        torch.testing.assert_close(together, tuple(torch.cat(maps) for maps in zip(*alone)))

    def test_in_channels(self):
        model = self.build(in_channels=5).eval()
        with torch.no_grad():
            self._check_maps(model(images(1, 5, 67, 53)), model.out_indices, 1, (67, 53))

    # ---------------------------------------------------------------------------------------- training
    def test_every_parameter_and_the_image_get_a_gradient(self):
        model, x = self.build().train(), images(2, 3, 67, 53).requires_grad_()
        loss_of(model(x)).backward()
        assert_trains(model)
        assert x.grad.isfinite().all()
        assert x.grad.flatten(1).any(dim=1).all()

    @pytest.mark.parametrize('dropping', [False, True], ids=['plain', 'drop'])
    def test_checkpointing_changes_memory_only(self, dropping):
        x, results, kept = images(4, 3, 67, 53), [], []
        for with_cp in (False, True):
            model = self.build(with_cp=with_cp, **(self.drop_rates if dropping else {})).double().train()
            saved: list[int] = []
            torch.manual_seed(3)

            def keep(tensor: Tensor, saved: list[int] = saved) -> Tensor:
                saved.append(tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                maps = model(x.double())
            loss_of(maps).backward()
            assert_trains(model)
            results.append((maps, gradients(model)))
            kept.append(sum(saved))
        torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)
        assert kept[1] < kept[0], f'with_cp kept {kept[1]} numbers for the backward pass, without it {kept[0]}'

    def test_drop_rates_act_in_training_only(self):
        model, x = self.build(**self.drop_rates), images(4, 3, 33, 128)
        with torch.no_grad():
            model.eval()
            assert_equal(model(x), model(x))
            assert_equal(model(x), self.build().eval()(x))
            model.train()
            torch.manual_seed(1)
            first, second = model(x), model(x)
            torch.manual_seed(1)
            assert_equal(model(x), first)  # the same random numbers, the same maps
        assert not all(torch.equal(a, b) for a, b in zip(first, second))

    @pytest.mark.parametrize('sizes', [((33, 128), (67, 53)), ((67, 53), (33, 128))], ids=str)
    def test_no_memory_of_the_last_size(self, sizes):
        used, fresh = self.build().eval(), self.build().eval()
        with torch.no_grad():
            used(images(1, 3, *sizes[0]))
            assert_equal(used(images(2, 3, *sizes[1])), fresh(images(2, 3, *sizes[1])))

    # ----------------------------------------------------------------------------------------- freezing
    def _is_frozen(self, name: str, frozen_stages: int) -> bool:
        prefixes = [prefix for stage in self.stage_names[: frozen_stages + 1] for prefix in stage]
        return any(name.startswith(prefix) for prefix in prefixes)

    def test_stage_names_name_parameters(self):
        names = [name for name, _ in self.build().named_parameters()]
        assert len(self.stage_names) == len(self.channels) + 1
        for stage in self.stage_names:
            for prefix in stage:
                assert any(name.startswith(prefix) for name in names), prefix

    @pytest.mark.parametrize('with_cp', [False, True], ids=['plain', 'cp'])
    @pytest.mark.parametrize('frozen', [-1, 0, 1, 'all'])
    def test_frozen_stages(self, frozen, with_cp):
        frozen = len(self.channels) if frozen == 'all' else frozen
        model = self.build(frozen_stages=frozen, with_cp=with_cp)
        still = {name for name, _ in model.named_parameters() if self._is_frozen(name, frozen)}
        for mode in (None, True, False, True):
            if mode is not None:
                assert model.train(mode) is model
                for name, module in model.named_modules():
                    assert module.training == (mode and not self._is_frozen(f'{name}.', frozen)), name
            assert {name for name, p in model.named_parameters() if not p.requires_grad} == still
        before = copy.deepcopy(model.state_dict())
        maps = model(images(4, 3, 67, 53))
        for name, tensor in model.state_dict().items():  # running means of a frozen norm stand still
            assert not self._is_frozen(name, frozen) or torch.equal(tensor, before[name]), name
        if len(still) < len(gradients(model)):
            loss_of(maps).backward()
        assert {name for name, gradient in gradients(model).items() if gradient is None} == still
        assert_trains(model, set(gradients(model)) - still)

    # ------------------------------------------------------------------------------- numbers and devices
    def test_bfloat16(self):
        x, model = images(2, 3, 67, 53), self.build()
        with torch.no_grad():
            expected = model.eval()(x)
        maps = model.to(torch.bfloat16).train()(x.to(torch.bfloat16))
        for m, e in zip(maps, expected):
            assert m.dtype == torch.bfloat16
            assert m.is_contiguous()
            # 8 bits of mantissa, a few layers deep
            assert (m.float() - e).norm() < 0.1 * e.norm()
        loss_of(maps).backward()
        assert_trains(model)

    def test_bfloat16_autocast(self):
        x, model = images(2, 3, 67, 53), self.build().train()
        expected = model(x)
        with torch.autocast('cpu', torch.bfloat16):
            maps = model(x)
        for m, e in zip(maps, expected):
            assert (m.float() - e).norm() < 0.1 * e.norm()
        loss_of(maps).backward()
        assert_trains(model)

    def test_builds_on_the_meta_device(self):
        with torch.device('meta'):
            model = self.cls(self.arch, out_indices=range(len(self.channels)), **self.drop_rates).train()
            maps = model(torch.empty(2, 3, 67, 53))
        assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
        for index, m in enumerate(maps):
            assert m.shape == (2, self.channels[index], *self.map_size(67, 53, index))
            assert m.is_contiguous()

    def test_every_named_arch_builds(self):
        assert self.cls.ARCHS
        for name in self.cls.ARCHS:
            with torch.device('meta'):
                model = self.cls(name)
            assert len(model.out_channels) == len(model.out_strides) == len(model.out_indices), name

    def test_building_prints_nothing(self, capfd):
        self.cls(self.arch)
        assert capfd.readouterr() == ('', '')

    def test_initial_weights(self):
        model = self.cls(self.arch)
        for _ in range(2):
            assert all(parameter.isfinite().all() for parameter in model.parameters())
            assert all(parameter.std() > 0 for parameter in model.parameters() if parameter.ndim > 1)
            model.init_weights()

    @pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_copies(self, duplicate):
        model, x = self.build().eval(), images(1, 3, 67, 53)
        twin = duplicate(model)
        assert (twin.out_channels, twin.out_strides) == (model.out_channels, model.out_strides)
        with torch.no_grad():
            assert_equal(twin(x), model(x))

    # ----------------------------------------------------------------------------------------- compilers
    def _check_compiled(self, backend: str, sizes: tuple, tolerance: float, **options: Any) -> None:
        """Of several sizes the first is compiled with H and W left open, and the others must find that program fit."""
        model = self.build(**{**self.compiled, **options}).train()
        torch._dynamo.reset()
        compiled = torch.compile(copy.deepcopy(model), backend=backend, fullgraph=True)
        left_open = len(sizes) > 1
        # where sizes are symbols, torch's cache of operations on fake tensors takes a quarter of the time for nothing
        settings = dict(error_on_recompile=True, fake_tensor_cache_enabled=not left_open)
        for size in sizes:
            x = images(2, 3, *size)
            if left_open:
                torch._dynamo.maybe_mark_dynamic(x, [2, 3])
            results = []
            for each in (model, compiled):
                each.zero_grad()
                with torch._dynamo.config.patch(settings):
                    maps = each(x)
                loss_of(maps).backward()
                results.append((maps, list(gradients(each).values())))
            torch.testing.assert_close(results[1], results[0], rtol=tolerance, atol=tolerance)

    def test_compiles_as_one_graph(self):
        """Also where blocks are recomputed and H and W left open: their sizes are then arguments of a subgraph."""
        self._check_compiled('aot_eager', self.compiled_sizes, 1e-5, with_cp=True)

    @pytest.mark.slow
    @pytest.mark.skipif(not (shutil.which('c++') or shutil.which('g++')), reason='Inductor needs a C++ compiler')
    def test_compiles_with_inductor(self):
        """Without recomputation, at one size; a single stage, as every kernel takes a second."""
        self._check_compiled('inductor', (self.inductor_size,), 1e-4, **self.inductor)

    def _export(self, dynamic: bool) -> None:
        model, x = self.build().eval(), images(2, 3, 67, 53)
        sides = {2: torch.export.Dim('height', min=33, max=512), 3: torch.export.Dim('width', min=33, max=512)}
        program = torch.export.export(model, (x,), dynamic_shapes=({**sides},) if dynamic else None)
        for size in ((67, 53), (128, 64)) if dynamic else ((67, 53),):
            x = images(2, 3, *size)
            with torch.no_grad():
                torch.testing.assert_close(program.module()(x), model(x))

    @pytest.mark.parametrize('dynamic', [False, True], ids=['one size', 'any size'])
    def test_exports_where_it_says_so(self, dynamic):
        if self.exports_any_size if dynamic else self.exports:
            self._export(dynamic)
        else:
            with pytest.raises(Exception):  # noqa: B017  (whatever torch raises; a success must change the flag)
                self._export(dynamic)

    # --------------------------------------------------------------------------------------- bad arguments
    @pytest.mark.parametrize('wrong', ['empty', 'too large', 'too small', 'descending', 'twice'])
    def test_out_indices_that_cannot_be(self, wrong):
        count = len(self.channels)
        indices = {
            'empty': (), 'too large': (0, count), 'too small': (-count - 1,), 'descending': (-1, 0), 'twice': (0, 0),
        }[wrong]  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(f'out_indices={indices}')):
            self.cls(self.arch, out_indices=indices)

    @pytest.mark.parametrize('beyond', [-2, 1])
    def test_frozen_stages_that_cannot_be(self, beyond):
        frozen = beyond if beyond < 0 else len(self.channels) + beyond
        with pytest.raises(ValueError, match=f'frozen_stages={frozen} '):
            self.cls(self.arch, frozen_stages=frozen)

    def test_unknown_arch(self):
        name = next(iter(self.cls.ARCHS))
        with pytest.raises(ValueError, match=re.escape(f"'{name}x'") + '.*did you mean') as error:
            self.cls(f'{name}x')
        assert all(valid in str(error.value) for valid in self.cls.ARCHS)
        with pytest.raises(ValueError, match=r"'§'\. Valid are"):
            self.cls('§')

    def test_arch_with_wrong_keys(self):
        key = next(iter(self.arch))
        with pytest.raises(ValueError, match=f"'{key}z'; did you mean '{key}'"):
            self.cls({**self.arch, f'{key}z': 1})
        required = [key for key in self.arch if key not in self.cls.ARCH_DEFAULTS]
        assert required
        for key in required:
            with pytest.raises(ValueError, match=rf'lacks {key}\b'):
                self.cls({k: value for k, value in self.arch.items() if k != key})

    def test_arch_is_not_changed(self):
        arch = copy.deepcopy(dict(self.arch))
        self.cls(arch)
        assert arch == self.arch

    @pytest.mark.parametrize('rate', [-0.5, 1.0, 1.5])
    def test_drop_path_rate_that_cannot_be(self, rate):
        with pytest.raises(ValueError, match=rf'drop_path_rate={rate} is outside \[0, 1\)'):
            self.cls(self.arch, drop_path_rate=rate)

    def test_images_of_other_channels(self):
        with pytest.raises(ValueError, match=r'\(1, 4, \d+, \d+\).*\(B, 3, H, W\).*in_channels='):
            self.build()(images(1, 4, 67, 53))

    @pytest.mark.parametrize('wrong', [None, 3.5, ('x',)], ids=str)
    def test_arch_of_another_type(self, wrong):
        with pytest.raises(ValueError, match=re.escape(f'no arch {wrong!r}') + '.*Valid are'):
            self.cls(wrong)

    def test_unknown_attention_backend(self):
        with pytest.raises(ValueError, match="attn_backend='fused' is unknown; valid are auto"):
            self.cls(self.arch, attn_backend='fused')

    def test_arguments_are_by_name_and_known(self):
        with pytest.raises(TypeError, match='positional'):
            self.cls(self.arch, 3)
        with pytest.raises(TypeError, match='drop_path_rte'):
            self.cls(self.arch, drop_path_rte=0.1)
        parameters = inspect.signature(self.cls).parameters
        shared = {
            'in_channels',
            'out_indices',
            'drop_path_rate',
            'frozen_stages',
            'with_cp',
            'attn_backend',
            'init_cfg',
        }
        assert {'arch', *shared} <= set(parameters)
        assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != 'arch')

    def test_docstring_has_the_arguments_of_the_signature(self):
        section = inspect.getdoc(self.cls).partition('Args:\n')[2]
        section = re.split(r'^\S', section, maxsplit=1, flags=re.MULTILINE)[0]
        documented = re.findall(r'^ {4}(\w+): ', section, flags=re.MULTILINE)
        assert documented == list(inspect.signature(self.cls).parameters)
