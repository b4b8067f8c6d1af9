"""Mask R-CNN, Swin V2-S, windows of 8, COCO, 36 epochs.

Expected: none published.
Weights: swinv2_small_patch4_window8_256.pth (ImageNet-1k) by --load-from; random without.
Parameters: 69.23 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_swinv2-s_coco.py --launcher pytorch --amp
Deviations: those of mask_rcnn_swinv2_coco.py.
"""

_base_ = './mask_rcnn_swinv2_coco.py'

model = dict(backbone=dict(arch='S'))
