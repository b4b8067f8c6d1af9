"""UperNet, Swin-T, ADE20K, 160k iterations.

Expected: 44.51 mIoU, 45.81 with multi-scale and flip testing, reported by the official code; mmsegmentation reports
    44.41 and 45.79; not measured by us.
Weights: swin_tiny_patch4_window7_224.pth (ImageNet-1k) by --load-from; random without.
Parameters: 59.94 M.
Cost: 8 GPUs x 2 images of 512 x 512, 5.0 GB on each (reported by mmsegmentation).
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_swin_ade20k.py --launcher pytorch
    One GPU: python tools/train.py configs/upernet_swin_ade20k.py --accumulate 8
Deviations: none known from `SwinTransformer/Swin-Transformer-Semantic-Segmentation`, commit 87e6f90.
"""

_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/runtime/mmseg.py',
]

model = dict(
    backbone=dict(type='densevit.SwinTransformer', arch='T', window_size=7, drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
# by name, so that the heads' BatchNorm decays as in the original
optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={'norm': dict(decay_mult=0.0), 'relative_position_bias_table': dict(decay_mult=0.0)},
    )
)
