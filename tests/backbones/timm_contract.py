"""The contract for models of timm: what :mod:`tests.backbones.contract` asks for, and that the maps are timm's own."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import timm
import torch
import torch.nn.functional as F

from densevit import TimmBackbone
from densevit.checkpoints import load_weights
from tests.backbones.contract import BackboneContract, assert_equal, assert_trains, fill, images, loss_of


class TimmContract(BackboneContract):
    """The contract, for a class whose variants are timm's names and not an ``arch``."""

    cls = TimmBackbone
    model_args: ClassVar[Mapping[str, Any]] = {}
    native: ClassVar[tuple[int, int]] = (224, 224)  # a size of image that timm takes without resampling or padding
    native_args: ClassVar[Mapping[str, Any]] = {}  # with which timm's own model computes what ours does, at that size
    around: ClassVar[int] = 0  # pixels of padding that ours puts around every image
    recomputes: ClassVar[bool] = True
    compiled_sizes = ((67, 53),)  # with H and W left open torch cannot always

    def build(self, **options: Any) -> TimmBackbone:
        options.setdefault('out_indices', tuple(range(len(self.channels))))
        return fill(TimmBackbone(self.arch, model_args=self.model_args, **options))

    # ---------------------------------------------------------------------------------------- timm's own maps
    def test_at_a_native_size_the_maps_are_timms_own_with_its_weights(self):
        theirs = fill(timm.create_model(self.arch, **self.model_args, **self.native_args)).double().eval()
        with torch.no_grad():
            for name, buffer in theirs.named_buffers():
                if name.endswith(('running_mean', 'running_var')):
                    buffer.copy_(0.5 + torch.rand(buffer.shape, generator=torch.Generator().manual_seed(len(name))))
        model = TimmBackbone(self.arch, model_args=self.model_args, out_indices=range(len(self.channels)))
        report = load_weights(model.double(), theirs.state_dict())
        assert report.origin == 'timm'
        assert (report.kept, report.renewed, report.resized, report.completed) == ((),) * 4
        assert set(report.loaded) == set(model.state_dict())
        x = images(2, 3, *self.native).double()
        with torch.no_grad():
            maps = model.eval()(x)
            expected = theirs.forward_intermediates(
                F.pad(x, (self.around,) * 4), output_fmt='NCHW', intermediates_only=True
            )
        for m, e in zip(maps, expected, strict=True):
            torch.testing.assert_close(m, e, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize('size', [(5, 7), (1, 40)], ids=str)
    def test_images_smaller_than_a_patch(self, size):
        model = self.build().eval()
        with torch.no_grad():
            self._check_maps(model(images(2, 3, *size)), model.out_indices, 2, size)

    def test_default_outputs_are_valid(self):
        """And nothing trainable is left that they do not need, which would stop DistributedDataParallel."""
        model = fill(TimmBackbone(self.arch, model_args=self.model_args)).train()
        assert model.out_channels == tuple(self.channels[index] for index in model.out_indices)
        assert model.out_strides == tuple(self.strides[index] for index in model.out_indices)
        loss_of(model(images(2, 3, 67, 53))).backward()
        assert_trains(model, {name for name, parameter in model.named_parameters() if parameter.requires_grad})
        assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)

    # ------------------------------------------------------------ what needs more than the name of the model
    def test_builds_on_the_meta_device(self):
        with torch.device('meta'):
            model = TimmBackbone(self.arch, model_args=self.model_args, **self.drop_rates).train()
            maps = model(torch.empty(2, 3, 67, 53))
        assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
        for index, m in zip(model.out_indices, maps, strict=True):
            assert m.shape == (2, self.channels[index], *self.map_size(67, 53, index))

    def test_initial_weights(self):
        """timm initializes, with zeros too, and ``init_weights()`` leaves what it has made."""
        model = TimmBackbone(self.arch, model_args=self.model_args)
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        model.init_weights()
        assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())

    @pytest.mark.parametrize('dropping', [True], ids=['drop'])
    def test_checkpointing_changes_memory_only(self, dropping):
        if self.recomputes:
            super().test_checkpointing_changes_memory_only(dropping)
        else:
            with pytest.raises(ValueError, match=f'with_cp=True: timm .* recomputes nothing of {self.arch!r}'):
                self.build(with_cp=True)

    def _is_frozen(self, name: str, frozen_stages: int) -> bool:
        """All that a whole model consists of is one module, which is frozen as such."""
        if frozen_stages == len(self.channels):
            return name != '.'
        return super()._is_frozen(name, frozen_stages)

    @pytest.mark.parametrize('frozen', [-1, 0, 1, 'all'])
    def test_frozen_stages(self, frozen):
        super().test_frozen_stages(frozen, with_cp=False)

    def test_building_prints_nothing(self, capfd):
        self.build()
        assert capfd.readouterr() == ('', '')

    def test_unknown_attention_backend(self):
        with pytest.raises(ValueError, match="attn_backend='fused' is unknown; valid are auto"):
            self.build(attn_backend='fused')

    def test_compiles_as_one_graph(self):
        """Without recomputation, which is timm's affair."""
        self._check_compiled('aot_eager', self.compiled_sizes, 1e-5)

    @pytest.mark.parametrize('wrong', ['empty', 'too large', 'too small', 'descending', 'twice'])
    def test_out_indices_that_cannot_be(self, wrong):
        count = len(self.channels)
        indices = {
            'empty': (), 'too large': (0, count), 'too small': (-count - 1,), 'descending': (-1, 0), 'twice': (0, 0),
        }[wrong]  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(f'out_indices={indices}')):
            self.build(out_indices=indices)

    @pytest.mark.parametrize('beyond', [-2, 1])
    def test_frozen_stages_that_cannot_be(self, beyond):
        frozen = beyond if beyond < 0 else len(self.channels) + beyond
        with pytest.raises(ValueError, match=f'frozen_stages={frozen} '):
            self.build(frozen_stages=frozen)

    @pytest.fixture
    def norm_eval(self, monkeypatch):
        """BatchNorm that trains would give other maps, or divide by deviations of a few rounded numbers."""
        build = self.build
        monkeypatch.setattr(self, 'build', lambda: build(norm_eval=True))

    def test_bfloat16(self, norm_eval):
        super().test_bfloat16()

    def test_bfloat16_autocast(self, norm_eval):
        super().test_bfloat16_autocast()

    def test_nothing_is_dropped_where_nobody_asks(self):
        model, x = self.build().train(), images(2, 3, 33, 128)
        with torch.no_grad():
            assert_equal(model(x), model(x))

    # ------------------------------------------------------------------ what is no question here
    test_every_named_arch_builds = None  # docs/timm.md
    test_unknown_arch = test_arch_of_another_type = None  # test_timm_backbone.py
    test_arch_with_wrong_keys = test_arch_is_not_changed = None  # test_timm_backbone.py, for model_args
    test_compiles_with_inductor = None  # timm's operators
    test_exports_where_it_says_so = None  # not promised

    def test_arguments_are_by_name_and_known(self):
        with pytest.raises(TypeError, match='positional'):
            TimmBackbone(self.arch, (0,))
        parameters = inspect.signature(TimmBackbone).parameters
        assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != 'model_name')
