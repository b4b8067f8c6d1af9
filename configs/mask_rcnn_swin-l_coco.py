"""Mask R-CNN, Swin-L, COCO, 36 epochs.

Expected: none published.
Weights: swin_large_patch4_window7_224_22k.pth (ImageNet-22k) by --load-from; random without.
Parameters: 215.64 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_swin-l_coco.py --launcher pytorch --amp
Deviations: those of mask_rcnn_swin_coco.py; the stochastic depth is that of Cascade Mask R-CNN on Swin-B.
"""

_base_ = './mask_rcnn_swin_coco.py'

model = dict(backbone=dict(arch='L', drop_path_rate=0.3), neck=dict(in_channels=[192, 384, 768, 1536]))
