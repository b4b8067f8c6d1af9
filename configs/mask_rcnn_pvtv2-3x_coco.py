"""Mask R-CNN, PVTv2-B2, COCO, 36 epochs.

Expected: 47.8 box AP, 43.1 mask AP reported by the official code; not measured by us.
Weights: pvt_v2_b2.pth (ImageNet-1k) by --load-from; random without.
Parameters: 45.02 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_pvtv2-3x_coco.py --launcher pytorch
    One GPU: python tools/train.py configs/mask_rcnn_pvtv2-3x_coco.py --accumulate 8
Deviations: none known from `whai362/PVT`, commit 57e2dfa, `detection/`.
"""

_base_ = [
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/adamw_3x.py',
    './_base_/runtime/mmdet.py',
]

model = dict(
    backbone=dict(type='densevit.PyramidVisionTransformerV2', arch='b2', drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
