"""Semantic FPN, PVTv2-B1, ADE20K, 40k iterations of 32 images.

Expected: 42.5 mIoU reported by the official code; not measured by us.
Weights: pvt_v2_b1.pth (ImageNet-1k) by --load-from; random without.
Parameters: 17.76 M.
Cost: 8 GPUs x 4 images of 512 x 512; 34.1 GMACs for one such image.
Command: torchrun --nproc_per_node 8 tools/train.py configs/semfpn_pvtv2-b1_ade20k.py --launcher pytorch
Deviations: those of semfpn_pvtv2_ade20k.py.
"""

_base_ = './semfpn_pvtv2_ade20k.py'

model = dict(backbone=dict(arch='b1'))
