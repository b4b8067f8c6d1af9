"""Semantic FPN, Twins-PCPVT-S, ADE20K, 40k iterations of 32 images.

Expected: 44.3 mIoU reported by the paper (arXiv 2104.13840), 43.26 reported by mmsegmentation after 80k iterations; not
    measured by us.
Weights: twins_pcpvt_small.in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; random without.
Parameters: 27.86 M.
Cost: 8 GPUs x 4 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/semfpn_timm-twins-pcpvt-s_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/semfpn_timm-twins-pcpvt-s_ade20k.py --amp --accumulate 8
Deviations: the official code has no config of Semantic FPN. The schedule is PVT's; mmsegmentation's has 80k iterations
    of 32 images at a constant learning rate of 1e-4.
"""

_base_ = [
    './_base_/models/semfpn.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_40k.py',
    './_base_/runtime/mmseg.py',
]

model = dict(
    backbone=dict(type='densevit.TimmBackbone', model_name='twins_pcpvt_small', drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
train_dataloader = dict(batch_size=4)
default_hooks = dict(checkpoint=dict(interval=4000))
