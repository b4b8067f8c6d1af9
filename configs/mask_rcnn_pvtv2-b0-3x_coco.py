"""Mask R-CNN, PVTv2-B0, COCO, 36 epochs.

Expected: 41.6 box AP, 38.2 mask AP reported by the official code; not measured by us.
Weights: pvt_v2_b0.pth (ImageNet-1k) by --load-from; random without.
Parameters: 23.45 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_pvtv2-b0-3x_coco.py --launcher pytorch
Deviations: those of mask_rcnn_pvtv2-3x_coco.py.
"""

_base_ = './mask_rcnn_pvtv2-3x_coco.py'

model = dict(backbone=dict(arch='b0'), neck=dict(in_channels=[32, 64, 160, 256]))
