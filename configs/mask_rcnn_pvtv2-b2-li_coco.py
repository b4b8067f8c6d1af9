"""Mask R-CNN, PVTv2-B2-Li, COCO, 12 epochs.

Expected: 44.1 box AP, 40.5 mask AP reported by the official code; not measured by us.
Weights: pvt_v2_b2_li.pth (ImageNet-1k) by --load-from; random without.
Parameters: 42.21 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_pvtv2-b2-li_coco.py --launcher pytorch
Deviations: those of mask_rcnn_pvtv2_coco.py.
"""

_base_ = './mask_rcnn_pvtv2_coco.py'

model = dict(backbone=dict(arch='b2-li'))
