"""Mask R-CNN, Swin-T, COCO, 12 epochs.

Expected: 43.7 box AP, 39.8 mask AP reported by the official code; not measured by us.
Weights: swin_tiny_patch4_window7_224.pth (ImageNet-1k) by --load-from; random without.
Parameters: 47.79 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_swin-1x_coco.py --launcher pytorch --amp
Deviations: those of mask_rcnn_swin_coco.py.
"""

_base_ = './mask_rcnn_swin_coco.py'

model = dict(backbone=dict(drop_path_rate=0.1))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
train_cfg = dict(max_epochs=12)
