"""upernet_patchconvnet-tiny_scenes with class attention: where the network looks for each class.

Command: DENSEVIT_DATA=/data python tools/train.py configs/upernet_patchconvnet-tiny-classattn_scenes.py
"""

_base_ = [
    './_base_/models/upernet_patchconvnet-tiny.py',
    './_base_/datasets/scenes_semantic.py',
    './_base_/runtime/mmseg.py',
]

max_iters = 1600
peak_lr = 3e-3

model = dict(
    data_preprocessor=dict(size=(128, 160)),
    decode_head=dict(num_classes=13),
    class_attention=dict(type='densevit.ClassAttentionHead'),
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=peak_lr, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [dict(type='OneCycleLR', eta_max=peak_lr, total_steps=max_iters, pct_start=0.2, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=800)
default_hooks = dict(checkpoint=dict(interval=800))
auto_scale_lr = dict(enable=False, base_batch_size=8)
val_evaluator = [dict(type='densevit.IoUMetric'), dict(type='densevit.PointingGame')]
test_evaluator = val_evaluator
