"""Semantic FPN's schedule in the PVT repositories: 40k iterations of 32 images, AdamW, poly decay without warm-up."""

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='densevit.GroupedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=1e-4, fused=True),
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=40000)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=4000)
# 8 GPUs x 4 images
auto_scale_lr = dict(enable=False, base_batch_size=32)
