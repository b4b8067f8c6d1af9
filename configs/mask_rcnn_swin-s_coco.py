"""Mask R-CNN, Swin-S, COCO, 36 epochs.

Expected: 48.5 box AP, 43.3 mask AP reported by the official code; mmdetection reports 48.2 and 43.2; not measured by
    us.
Weights: swin_small_patch4_window7_224.pth (ImageNet-1k) by --load-from; random without.
Parameters: 69.11 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800, 11.9 GB on each in mixed precision (reported by mmdetection).
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_swin-s_coco.py --launcher pytorch --amp
Deviations: those of mask_rcnn_swin_coco.py.
"""

_base_ = './mask_rcnn_swin_coco.py'

model = dict(backbone=dict(arch='S'))
