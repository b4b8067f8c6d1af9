"""The contract over small models of timm with attention: columns and hierarchies."""

from __future__ import annotations

from timm.models import mvitv2

from tests.backbones.timm_contract import TimmContract

# timm takes none of the numbers of an MViTv2 as arguments, but the name of a set of them.
mvitv2.model_cfgs['contract'] = mvitv2.MultiScaleVitCfg(depths=(1, 1, 1, 2), embed_dim=8)


def blocks(count: int, name: str = 'blocks') -> tuple[tuple[str, ...], ...]:
    """The stages of a model whose ``count`` maps come from modules of one list."""
    return tuple((f'timm_model.{name}.{index}.',) for index in range(count))


class _Column(TimmContract):
    channels, strides = (16,) * 2, (16,) * 2
    stem = ('timm_model.patch_embed.', 'timm_model.pos_embed')

    def __init_subclass__(cls) -> None:
        cls.stage_names = (cls.stem, *blocks(len(cls.channels)))


class TestViT(_Column):
    arch = 'test_vit'
    compiled = dict(out_indices=(1,))
    channels, strides = (64,) * 6, (16,) * 6
    native = (160, 160)
    stem = (*_Column.stem, 'timm_model.cls_token')


class TestDeiT(_Column):
    arch = 'deit_tiny_patch16_224'
    model_args = dict(embed_dim=16, num_heads=2, depth=2)
    stem = (*_Column.stem, 'timm_model.cls_token')
    test_compiles_as_one_graph = None  # of TestViT's class


class TestDistilledDeiT(_Column):
    arch = 'deit_tiny_distilled_patch16_224'
    model_args = dict(embed_dim=16, num_heads=2, depth=2)
    stem = (*_Column.stem, 'timm_model.cls_token', 'timm_model.dist_token')


class TestCaiT(_Column):
    arch = 'cait_xxs24_224'
    model_args = dict(embed_dim=16, num_heads=2, depth=2)


class TestXCiT(_Column):
    arch = 'xcit_nano_12_p16_224'
    compiled = dict(out_indices=(0,))
    model_args = dict(embed_dim=16, num_heads=2, depth=2)
    native = (96, 160)


class TestPiT(TimmContract):
    arch = 'pit_ti_224'
    compiled = dict(out_indices=(1,))
    model_args = dict(base_dims=[8, 8, 8], depth=[1, 1, 1])
    channels, strides = (16, 32, 64), (8, 16, 32)
    native, around = (216, 216), 4
    recomputes = False
    stage_names = (
        ('timm_model.patch_embed.', 'timm_model.pos_embed', 'timm_model.cls_token'),
        *blocks(3, 'transformers'),
    )


class TestTwins(TimmContract):
    arch = 'twins_svt_small'
    compiled = dict(out_indices=(0,))
    model_args = dict(embed_dims=[8, 16, 24, 32], num_heads=[1, 2, 3, 4], depths=[2, 2, 2, 2])
    channels, strides = (8, 16, 24, 32), (4, 8, 16, 32)
    native = (96, 160)
    recomputes = False
    stage_names = (
        ('timm_model.patch_embeds.0.',),
        *(
            tuple(f'timm_model.{part}.{index}.' for part in ('patch_embeds', 'blocks', 'pos_block'))
            for index in range(4)
        ),
    )
    test_bfloat16 = test_bfloat16_autocast = None  # torch 2.15 convolves patches of tokens wrongly on some CPUs


class TestSwin(TimmContract):
    arch = 'swin_tiny_patch4_window7_224'
    compiled = dict(out_indices=(0,))
    model_args = dict(embed_dim=8, depths=(2, 1, 1, 2), num_heads=(1, 2, 2, 4))
    channels, strides = (8, 16, 32, 64), (4, 8, 16, 32)
    native_args = dict(always_partition=True)
    stage_names = (('timm_model.patch_embed.',), *blocks(4, 'layers'))


class TestSwinV2(TestSwin):
    arch = 'swinv2_tiny_window8_256'
    native = (256, 256)


class TestMViTv2(TimmContract):
    arch = 'mvitv2_tiny'
    compiled = dict(out_indices=(0,))
    model_args = dict(cfg_variant='contract')
    channels, strides = (8, 16, 32, 64), (4, 8, 16, 32)
    stage_names = (('timm_model.patch_embed.',), *blocks(4, 'stages'))
