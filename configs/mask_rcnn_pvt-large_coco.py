"""Mask R-CNN, PVT-Large, COCO, 12 epochs.

Expected: 42.9 box AP, 39.5 mask AP reported by the official code; not measured by us.
Weights: pvt_large.pth (ImageNet-1k) by --load-from; random without.
Parameters: 81.02 M.
Cost: 8 GPUs x 1 image of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_pvt-large_coco.py --launcher pytorch
Deviations: those of mask_rcnn_pvt_coco.py.
"""

_base_ = './mask_rcnn_pvt_coco.py'

# as in the official code: no stochastic depth, and one image on each GPU
model = dict(backbone=dict(arch='large', drop_path_rate=0.0))
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=2e-4 / 1.4))
auto_scale_lr = dict(base_batch_size=8)
