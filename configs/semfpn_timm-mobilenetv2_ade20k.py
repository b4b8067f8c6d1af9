"""Semantic FPN, MobileNetV2, ADE20K, 40k iterations of 32 images.

Expected: none published.
Weights: mobilenetv2_100.ra_in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; needed, for BatchNorm keeps their
    statistics.
Parameters: 5.94 M.
Cost: 8 GPUs x 4 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/semfpn_timm-mobilenetv2_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/semfpn_timm-mobilenetv2_ade20k.py --amp --accumulate 8
Deviations: those of semfpn_timm-resnet-50_ade20k.py. A light head for a light backbone: UperNet's has seven times as
    many parameters as this one.
"""

_base_ = './semfpn_timm-resnet-50_ade20k.py'

model = dict(
    backbone=dict(model_name='mobilenetv2_100'),
    neck=dict(in_channels=[24, 32, 96, 320]),
)
