"""upernet_patchconvnet-tiny_camvid with class attention: where the network looks for each class.

Command: DENSEVIT_DATA=/data python tools/train.py configs/upernet_patchconvnet-tiny-classattn_camvid.py
"""

_base_ = [
    './_base_/models/upernet_patchconvnet-tiny.py',
    './_base_/datasets/camvid.py',
    './_base_/runtime/mmseg.py',
]

max_iters = 6000
peak_lr = 3e-3

model = dict(
    # windows of the size of the training crops: squeeze-excite and pyramid pooling average over what they are given
    test_cfg=dict(mode='slide', crop_size=(256, 256), stride=(104, 112)),
    decode_head=dict(
        num_classes=11,
        # 1 / sqrt(frequency of the class in the training pixels), mean 1
        loss_decode=dict(class_weight=[0.34, 0.29, 1.42, 0.25, 0.66, 0.45, 1.30, 1.33, 0.58, 1.76, 2.61]),
    ),
    class_attention=dict(type='densevit.ClassAttentionHead'),
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=peak_lr, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [dict(type='OneCycleLR', eta_max=peak_lr, total_steps=max_iters, pct_start=0.2, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=1500)
default_hooks = dict(checkpoint=dict(interval=1500))
auto_scale_lr = dict(enable=False, base_batch_size=8)
val_evaluator = [dict(type='densevit.IoUMetric'), dict(type='densevit.PointingGame')]
test_evaluator = val_evaluator
