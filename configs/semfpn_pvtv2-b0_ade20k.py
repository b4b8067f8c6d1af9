"""Semantic FPN, PVTv2-B0, ADE20K, 40k iterations of 32 images.

Expected: 37.2 mIoU reported by the official code; not measured by us.
Weights: pvt_v2_b0.pth (ImageNet-1k) by --load-from; random without.
Parameters: 7.55 M.
Cost: 8 GPUs x 4 images of 512 x 512; 25.0 GMACs for one such image.
Command: torchrun --nproc_per_node 8 tools/train.py configs/semfpn_pvtv2-b0_ade20k.py --launcher pytorch
Deviations: those of semfpn_pvtv2_ade20k.py.
"""

_base_ = './semfpn_pvtv2_ade20k.py'

model = dict(backbone=dict(arch='b0'), neck=dict(in_channels=[32, 64, 160, 256]))
