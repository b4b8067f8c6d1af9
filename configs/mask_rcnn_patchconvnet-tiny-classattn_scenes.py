"""mask_rcnn_patchconvnet-tiny_scenes with class attention: where the network looks for each class.

Command: DENSEVIT_DATA=/data python tools/train.py configs/mask_rcnn_patchconvnet-tiny-classattn_scenes.py
"""

_base_ = [
    './_base_/models/mask_rcnn_patchconvnet-tiny.py',
    './_base_/datasets/scenes_instance.py',
    './_base_/runtime/mmdet.py',
]

num_classes = 8
max_epochs = 6
peak_lr = 1.5e-3

model = dict(
    roi_head=dict(bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes)),
    # a scene has three to seven things: 64 samples are enough of them
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))),
    class_attention=dict(type='densevit.ClassAttentionHead'),
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=peak_lr, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = [
    dict(type='OneCycleLR', eta_max=peak_lr, total_steps=max_epochs, pct_start=0.2, convert_to_iter_based=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=3)
auto_scale_lr = dict(enable=False, base_batch_size=4)
val_evaluator = [
    dict(
        type='densevit.CocoMetric',
        ann_file='{{$DENSEVIT_DATA:data}}/scenes/coco/annotations/instances_val2017.json',
        metric=['bbox', 'segm'],
    ),
    dict(type='densevit.PointingGame'),
]
test_evaluator = val_evaluator
