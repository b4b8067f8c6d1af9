"""Mask R-CNN, Swin-T, COCO, 36 epochs.

Expected: 46.0 box AP, 41.6 mask AP reported by the official code and by mmdetection; not measured by us.
Weights: swin_tiny_patch4_window7_224.pth (ImageNet-1k) by --load-from; random without.
Parameters: 47.79 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800, 7.8 GB on each in mixed precision (reported by mmdetection).
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_swin_coco.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/mask_rcnn_swin_coco.py --amp --accumulate 8
Deviations: none known from `SwinTransformer/Swin-Transformer-Object-Detection`, commit c7b2011, but bfloat16 in the
    place of its float16.
"""

_base_ = [
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/adamw_3x.py',
    './_base_/runtime/mmdet.py',
]

model = dict(
    backbone=dict(type='densevit.SwinTransformer', arch='T', window_size=7, drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'relative_position_bias_table': dict(decay_mult=0.0)}))
