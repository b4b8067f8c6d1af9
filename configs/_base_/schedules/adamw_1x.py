"""Mask R-CNN's 1x schedule in the PVT repository: 12 epochs of 16-image batches, AdamW, two steps, full decay."""

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='densevit.GroupedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=1e-4, fused=True),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
# 8 GPUs x 2 images
auto_scale_lr = dict(enable=False, base_batch_size=16)
