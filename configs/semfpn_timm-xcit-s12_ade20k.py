"""Semantic FPN, XCiT-S12/16, ADE20K, 80k iterations.

Expected: 43.9 mIoU reported by the official code; not measured by us.
Weights: xcit_small_12_p16_224.fb_in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; random without.
Parameters: 32.22 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/semfpn_timm-xcit-s12_ade20k.py --launcher pytorch
    One GPU: python tools/train.py configs/semfpn_timm-xcit-s12_ade20k.py --accumulate 8
Deviations: those of upernet_timm-xcit-s12_ade20k.py.
"""

_base_ = [
    './_base_/models/semfpn.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/runtime/mmseg.py',
]

embed_dims = 384
model = dict(
    backbone=dict(type='densevit.TimmBackbone', model_name='xcit_small_12_p16_224', drop_path_rate=0.05),
    neck=[
        dict(type='densevit.ColumnarPyramid', in_channels=embed_dims, norm_cfg=dict(type='BN', requires_grad=True)),
        dict(type='FPN', in_channels=[embed_dims] * 4, out_channels=embed_dims, num_outs=4),
    ],
    decode_head=dict(in_channels=[embed_dims] * 4),
)
# by name, so that BatchNorm decays as in the original
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, custom_keys={'norm': dict(decay_mult=0.0)}))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=80000),
]
train_cfg = dict(max_iters=80000, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
