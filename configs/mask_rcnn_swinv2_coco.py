"""Mask R-CNN, Swin V2-T, windows of 8, COCO, 36 epochs.

Expected: none published.
Weights: swinv2_tiny_patch4_window8_256.pth (ImageNet-1k) by --load-from; random without.
Parameters: 47.85 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_swinv2_coco.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/mask_rcnn_swinv2_coco.py --amp --accumulate 8
Deviations: nothing was published for Mask R-CNN on Swin V2 of sizes T to L. The recipe is that of
    mask_rcnn_swin_coco.py.
"""

_base_ = [
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/adamw_3x.py',
    './_base_/runtime/mmdet.py',
]

model = dict(
    backbone=dict(type='densevit.SwinTransformerV2', arch='T', window_size=8, drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.0) for key in ('cpb_mlp', 'logit_scale')}),
)
