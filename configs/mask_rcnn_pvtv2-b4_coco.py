"""Mask R-CNN, PVTv2-B4, COCO, 12 epochs.

Expected: 47.5 box AP, 42.7 mask AP reported by the official code; not measured by us.
Weights: pvt_v2_b4.pth (ImageNet-1k) by --load-from; random without.
Parameters: 82.21 M.
Cost: 8 GPUs x 1 image of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_pvtv2-b4_coco.py --launcher pytorch
Deviations: those of mask_rcnn_pvtv2_coco.py.
"""

_base_ = './mask_rcnn_pvtv2_coco.py'

model = dict(backbone=dict(arch='b4'))
# as in the official code: one image on each GPU
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=2e-4 / 1.4))
auto_scale_lr = dict(base_batch_size=8)
