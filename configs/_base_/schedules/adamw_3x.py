"""Mask R-CNN's 3x schedule in the Swin and XCiT repositories: 36 epochs of 16-image batches, AdamW, two steps."""

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='densevit.GroupedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=36, val_interval=1)
# 8 GPUs x 2 images
auto_scale_lr = dict(enable=False, base_batch_size=16)
