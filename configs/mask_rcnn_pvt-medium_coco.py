"""Mask R-CNN, PVT-Medium, COCO, 12 epochs.

Expected: 42.0 box AP, 39.0 mask AP reported by the official code; not measured by us.
Weights: pvt_medium.pth (ImageNet-1k) by --load-from; random without.
Parameters: 63.86 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_pvt-medium_coco.py --launcher pytorch
Deviations: those of mask_rcnn_pvt_coco.py.
"""

_base_ = './mask_rcnn_pvt_coco.py'

# no stochastic depth, as in the official code
model = dict(backbone=dict(arch='medium', drop_path_rate=0.0))
