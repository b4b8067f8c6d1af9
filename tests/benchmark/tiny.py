"""Models that take milliseconds."""

from __future__ import annotations

from densevit.benchmark.models import Spec, parse_spec

SIZE = (64, 96)
ARCH = dict(embed_dims=8, depths=(2, 1, 1, 2), num_heads=(1, 2, 2, 4))
SWIN_NAME = f'densevit.SwinTransformer:{ARCH},window_size=4'
SWIN = parse_spec(SWIN_NAME)


def segmentor(fast: bool = False) -> Spec:
    """UperNet with a Swin of 8 channels and heads of 16, five classes."""
    spec = parse_spec('upernet_swin_ade20k').without_dropping()
    spec.config['backbone'].update(arch=ARCH, window_size=4)
    spec.config['decode_head'].update(in_channels=[8, 16, 32, 64], channels=16, num_classes=5)
    spec.config['auxiliary_head'].update(in_channels=32, channels=8, num_classes=5)
    return spec.with_fast_parts() if fast else spec


def detector(fast: bool = False) -> Spec:
    """Mask R-CNN with the same backbone."""
    spec = parse_spec('mask_rcnn_swin_coco').without_dropping()
    config = spec.config
    config['backbone'].update(arch=ARCH, window_size=4)
    config['neck'].update(in_channels=[8, 16, 32, 64], out_channels=16)
    config['rpn_head'].update(in_channels=16, feat_channels=16)
    roi = config['roi_head']
    roi['bbox_roi_extractor']['out_channels'] = roi['mask_roi_extractor']['out_channels'] = 16
    roi['bbox_head'].update(in_channels=16, fc_out_channels=32, num_classes=5)
    roi['mask_head'].update(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=5)
    return spec.with_fast_parts() if fast else spec
