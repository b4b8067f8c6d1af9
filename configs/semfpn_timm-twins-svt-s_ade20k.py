"""Semantic FPN, Twins-SVT-S, ADE20K, 40k iterations of 32 images.

Expected: 44.47 mIoU reported by mmsegmentation after 80k iterations, with norms on the maps; not measured by us.
Weights: twins_svt_small.in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; random without.
Parameters: 27.80 M.
Cost: 8 GPUs x 4 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/semfpn_timm-twins-svt-s_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/semfpn_timm-twins-svt-s_ade20k.py --amp --accumulate 8
Deviations: those of semfpn_timm-twins-pcpvt-s_ade20k.py, and official code and mmsegmentation norm every map of an SVT,
    which timm does not.
"""

_base_ = './semfpn_timm-twins-pcpvt-s_ade20k.py'

model = dict(
    backbone=dict(model_name='twins_svt_small'),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
