"""Cascade Mask R-CNN, Swin-S, COCO, 36 epochs.

Expected: 51.9 box AP, 45.0 mask AP reported by the official code; not measured by us.
Weights: swin_small_patch4_window7_224.pth (ImageNet-1k) by --load-from; random without.
Parameters: 106.95 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/cascade_mask_rcnn_swin-s_coco.py --launcher pytorch --amp
Deviations: those of cascade_mask_rcnn_swin_coco.py.
"""

_base_ = './cascade_mask_rcnn_swin_coco.py'

model = dict(backbone=dict(arch='S'))
