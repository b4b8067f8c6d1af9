"""Mask R-CNN, CvT-21, COCO, 36 epochs.

Expected: none published.
Weights: an official CvT-21 file (ImageNet-1k or 22k, 224 or 384 pixels) by --load-from; needed, for BatchNorm keeps
    their statistics.
Parameters: 50.72 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_cvt-21_coco.py --launcher pytorch --amp
    --load-from FILE
Deviations: those of mask_rcnn_cvt_coco.py.
"""

_base_ = './mask_rcnn_cvt_coco.py'

model = dict(backbone=dict(arch='21'))
