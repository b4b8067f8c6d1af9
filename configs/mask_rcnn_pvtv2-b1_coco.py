"""Mask R-CNN, PVTv2-B1, COCO, 12 epochs.

Expected: 41.8 box AP, 38.8 mask AP reported by the official code; not measured by us.
Weights: pvt_v2_b1.pth (ImageNet-1k) by --load-from; random without.
Parameters: 33.66 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_pvtv2-b1_coco.py --launcher pytorch
Deviations: those of mask_rcnn_pvtv2_coco.py.
"""

_base_ = './mask_rcnn_pvtv2_coco.py'

model = dict(backbone=dict(arch='b1'))
