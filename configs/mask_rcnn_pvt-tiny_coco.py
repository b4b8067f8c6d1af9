"""Mask R-CNN, PVT-Tiny, COCO, 12 epochs.

Expected: 36.7 box AP, 35.1 mask AP reported by the official code; not measured by us.
Weights: pvt_tiny.pth (ImageNet-1k) by --load-from; random without.
Parameters: 32.88 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_pvt-tiny_coco.py --launcher pytorch
Deviations: those of mask_rcnn_pvt_coco.py.
"""

_base_ = './mask_rcnn_pvt_coco.py'

model = dict(backbone=dict(arch='tiny'))
