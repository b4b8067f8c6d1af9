"""The contract over small models of timm: columns, hierarchies of attention, and convolutional networks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch

from densevit import TimmBackbone
from tests.backbones.contract import BackboneContract, fill


class _TimmContract(BackboneContract):
    """The contract, for a class whose variants are timm's names and not an ``arch``."""

    cls = TimmBackbone
    model_args: ClassVar[Mapping[str, Any]] = {}
    recomputes: ClassVar[bool] = True
    compiles: ClassVar[bool] = False  # at one size; with H and W left open torch cannot always

    def build(self, **options: Any) -> TimmBackbone:
        options.setdefault('out_indices', tuple(range(len(self.channels))))
        return fill(TimmBackbone(self.arch, model_args=self.model_args, **options))

    # ------------------------------------------------------------ what needs more than the name of the model
    def test_default_outputs_are_valid(self):
        model = TimmBackbone(self.arch, model_args=self.model_args)
        assert model.out_channels == tuple(self.channels[index] for index in model.out_indices)

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

    def test_checkpointing_changes_memory_only(self):
        if self.recomputes:
            super().test_checkpointing_changes_memory_only(dropping=False)
        else:
            with pytest.raises(ValueError, match=f'with_cp=True: timm .* recomputes nothing of {self.arch!r}'):
                self.build(with_cp=True)

    @pytest.mark.parametrize('frozen', [-1, 0, 1])  # with all, a list of frozen blocks is in eval mode as they are
    def test_frozen_stages(self, frozen):
        super().test_frozen_stages(frozen, with_cp=False)

    def test_building_prints_nothing(self, capfd):
        self.build()
        assert capfd.readouterr() == ('', '')

    def test_unknown_attention_backend(self):
        with pytest.raises(ValueError, match="attn_backend='fused' is unknown; valid are auto"):
            self.build(attn_backend='fused')

    @pytest.mark.parametrize('with_cp', [False])
    def test_compiles_as_one_graph(self, with_cp):
        if not self.compiles:
            pytest.skip('takes minutes')
        self._check_compiled('aot_eager', ((67, 53),), 1e-5)

    @pytest.mark.parametrize('wrong', ['too large', 'descending'])
    def test_out_indices_that_cannot_be(self, wrong):
        indices = (0, len(self.channels)) if wrong == 'too large' else (-1, 0)
        with pytest.raises(ValueError, match=re.escape(f'out_indices={indices}')):
            self.build(out_indices=indices)

    @pytest.mark.parametrize('beyond', [-2, 1])
    def test_frozen_stages_that_cannot_be(self, beyond):
        frozen = beyond if beyond < 0 else len(self.channels) + beyond
        with pytest.raises(ValueError, match=f'frozen_stages={frozen} '):
            self.build(frozen_stages=frozen)

    def test_bfloat16(self):
        build = self.build
        self.build = lambda: build(norm_eval=True)  # BatchNorm that trains would give other maps
        super().test_bfloat16()

    # ------------------------------------------------------------------ what is no question here
    test_every_named_arch_builds = None  # docs/timm.md
    test_unknown_arch = test_arch_of_another_type = None  # test_timm_backbone.py
    test_arch_with_wrong_keys = test_arch_is_not_changed = None  # there are none
    test_compiles_with_inductor = None  # timm's operators
    test_exports_where_it_says_so = None  # not promised

    def test_arguments_are_by_name_and_known(self):
        with pytest.raises(TypeError, match='positional'):
            TimmBackbone(self.arch, (0,))
        parameters = inspect.signature(TimmBackbone).parameters
        assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != 'model_name')


class TestViT(_TimmContract):
    arch = 'test_vit'
    channels, strides = (64,) * 6, (16,) * 6
    compiles = True
    stage_names = (
        ('timm_model.patch_embed.', 'timm_model.pos_embed', 'timm_model.cls_token'),
        *((f'timm_model.blocks.{index}.',) for index in range(6)),
    )


class TestCaiT(_TimmContract):
    arch = 'cait_xxs24_224'
    model_args = dict(embed_dim=16, num_heads=2, depth=2)
    channels, strides = (16,) * 2, (16,) * 2
    compiles = True
    stage_names = (
        ('timm_model.patch_embed.', 'timm_model.pos_embed'),
        ('timm_model.blocks.0.',),
        ('timm_model.blocks.1.',),
    )


class TestPiT(_TimmContract):
    arch = 'pit_ti_224'
    model_args = dict(base_dims=[8, 8, 8], depth=[1, 1, 1])
    channels, strides = (16, 32, 64), (8, 16, 32)
    recomputes, compiles = False, True
    stage_names = (
        ('timm_model.patch_embed.', 'timm_model.pos_embed', 'timm_model.cls_token'),
        *((f'timm_model.transformers.{index}.',) for index in range(3)),
    )


class TestXCiT(_TimmContract):
    arch = 'xcit_nano_12_p16_224'
    model_args = dict(embed_dim=16, num_heads=2, depth=2)
    channels, strides = (16,) * 2, (16,) * 2
    stage_names = (
        ('timm_model.patch_embed.', 'timm_model.pos_embed.'),
        ('timm_model.blocks.0.',),
        ('timm_model.blocks.1.',),
    )


class TestTwins(_TimmContract):
    arch = 'twins_svt_small'
    model_args = dict(embed_dims=[8, 16, 24, 32], num_heads=[1, 2, 3, 4], depths=[2, 2, 2, 2])
    channels, strides = (8, 16, 24, 32), (4, 8, 16, 32)
    recomputes = False
    stage_names = (
        ('timm_model.patch_embeds.0.',),
        *(
            tuple(f'timm_model.{part}.{index}.' for part in ('patch_embeds', 'blocks', 'pos_block'))
            for index in range(4)
        ),
    )
    test_bfloat16 = test_bfloat16_autocast = None  # torch 2.15 convolves 4 x 4 patches wrongly on the CPU


class TestResNet(_TimmContract):
    arch = 'test_resnet'
    channels, strides = (32, 32, 48, 192, 96), (2, 4, 8, 16, 32)
    stem = ('timm_model.conv1.', 'timm_model.bn1.')
    stage_names = (stem, stem, *((f'timm_model.layer{index}.',) for index in range(1, 5)))
