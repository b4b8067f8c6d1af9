"""UperNet, Twins-SVT-S, ADE20K, 160k iterations.

Expected: 46.2 mIoU reported by the official code, with norms on the maps; not measured by us.
Weights: twins_svt_small.in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; random without.
Parameters: 53.85 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_timm-twins-svt-s_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_timm-twins-svt-s_ade20k.py --amp --accumulate 8
Deviations: from `Meituan-AutoML/Twins`, commit 1930e44, which norms every map of an SVT; timm does not.
"""

_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/runtime/mmseg.py',
]

model = dict(
    backbone=dict(type='densevit.TimmBackbone', model_name='twins_svt_small', drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
# by name, so that the heads' BatchNorm decays as in the original
optim_wrapper = dict(
    paramwise_cfg=dict(_delete_=True, custom_keys={'norm': dict(decay_mult=0.0), 'pos_block': dict(decay_mult=0.0)})
)
