"""How a detection run logs, keeps checkpoints and draws."""

default_scope = 'mmdet'
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # the newest and the best are kept; the rest would fill the disk
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1, save_best='coco/segm_mAP'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
)
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
# a sample that cannot be used: 'stop', or 'skip' and count it, up to dict(policy='skip', limit=0.05) of all
broken_samples = 'stop'

val_cfg = dict(type='densevit.ValLoop')
test_cfg = dict(type='TestLoop')
