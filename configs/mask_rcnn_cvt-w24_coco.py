"""Mask R-CNN, CvT-W24, COCO, 36 epochs.

Expected: none published.
Weights: CvT-w24-384x384-IN-22k.pth (ImageNet-22k) by --load-from; needed, for BatchNorm keeps their statistics.
Parameters: 295.99 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_cvt-w24_coco.py --launcher pytorch --amp
    --load-from FILE
Deviations: those of mask_rcnn_cvt_coco.py.
"""

_base_ = './mask_rcnn_cvt_coco.py'

model = dict(backbone=dict(arch='W24', drop_path_rate=0.3), neck=dict(in_channels=[192, 768, 1024]))
