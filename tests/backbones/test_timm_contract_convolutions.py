"""The contract over small convolutional networks of timm."""

from __future__ import annotations

from functools import partial

from timm.layers import GroupNormAct, StdConv2d
from timm.models.byobnet import ByoBlockCfg

from tests.backbones.timm_contract import TimmContract


class _Network(TimmContract):
    """A stem, whose end is the first map, and stages."""

    channels, strides = (16, 16, 16, 32, 32), (2, 4, 8, 16, 32)
    native = (67, 53)
    compiled = dict(out_indices=(1,))
    stem = ('timm_model.stem.',)
    stages: tuple[tuple[str, ...], ...] = tuple((f'stages.{index}',) for index in range(4))

    def __init_subclass__(cls) -> None:
        first = (cls.stem,) if len(cls.stages) == 4 else ()  # of EfficientNets it is the end of the first stage
        stages = (tuple(f'timm_model.{part}.' for part in stage) for stage in cls.stages)
        cls.stage_names = (cls.stem, *first, *stages)


class TestResNet(_Network):
    arch = 'test_resnet'
    channels = (32, 32, 48, 192, 96)
    stem = ('timm_model.conv1.', 'timm_model.bn1.')
    stages = tuple((f'layer{index}',) for index in range(1, 5))


class TestResNetRS(_Network):
    arch = 'resnetrs50'
    model_args = dict(layers=(1, 1, 1, 1), channels=(8, 8, 16, 16))
    channels = (64, 32, 32, 64, 64)
    stem = ('timm_model.conv1.', 'timm_model.bn1.', 'timm_model.maxpool.')
    stages = TestResNet.stages
    test_compiles_as_one_graph = None  # of TestResNet's class


class TestEfficientNet(_Network):
    arch = 'tinynet_e'  # the smallest of EfficientNet's blocks
    channels = (8, 16, 24, 56, 160)
    stem = ('timm_model.conv_stem.', 'timm_model.bn1.')
    stages = (('blocks.0',), ('blocks.1',), ('blocks.2',), ('blocks.3', 'blocks.4'), ('blocks.5', 'blocks.6'))
    test_compiles_as_one_graph = None  # of TestEfficientNetV2's class


class TestEfficientNetV2(_Network):
    arch = 'test_efficientnet'
    model_args = dict(channel_multiplier=0.5, depth_multiplier=2.0)  # once, there would be no path to drop
    channels = (8, 16, 16, 24, 32)
    stem = TestEfficientNet.stem
    stages = tuple((f'blocks.{index}',) for index in range(5))


class TestMobileNetV2(_Network):
    arch = 'mobilenetv2_035'
    model_args = dict(depth_multiplier=0.5)
    channels = (8, 8, 16, 32, 112)
    stem, stages = TestEfficientNet.stem, TestEfficientNet.stages
    test_compiles_as_one_graph = None  # of TestEfficientNetV2's class


class TestNFNet(_Network):
    arch = 'dm_nfnet_f0'
    model_args = dict(
        depths=(1, 1, 1, 1), channels=(16, 16, 32, 32), num_features=32, stem_chs=16, group_size=8
    )  # fmt: skip
    channels = (8, 16, 16, 32, 32)
    stages = (*_Network.stages[:3], ('stages.3', 'final_conv'))


class TestBiT(_Network):
    arch = 'resnetv2_50'  # timm's own names of BiT leave no choice of depth
    model_args = dict(
        layers=(1, 1, 1, 1),
        channels=(16, 16, 32, 32),
        stem_chs=16,
        stem_type='fixed',
        conv_layer=partial(StdConv2d, eps=1e-8),
        norm_layer=partial(GroupNormAct, num_groups=4),
    )


class TestLambdaNetworks(_Network):
    arch = 'lambda_resnet26t'
    compiled = dict(out_indices=(3,))
    model_args = dict(
        stem_chs=16,
        blocks=(
            ByoBlockCfg(type='bottle', d=1, c=16, s=1, gs=0, br=0.5),
            ByoBlockCfg(type='bottle', d=1, c=16, s=2, gs=0, br=0.5),
            (
                ByoBlockCfg(type='bottle', d=1, c=32, s=2, gs=0, br=0.5),
                ByoBlockCfg(type='self_attn', d=1, c=32, s=1, gs=0, br=0.5),
            ),
            ByoBlockCfg(type='self_attn', d=1, c=32, s=2, gs=0, br=0.5),
        ),
    )
    native = (64, 96)
