"""Semantic FPN, PVTv2-B2-Li, ADE20K, 40k iterations of 32 images.

Expected: none published; the official code has the config without a number.
Weights: pvt_v2_b2_li.pth (ImageNet-1k) by --load-from; random without.
Parameters: 26.31 M.
Cost: 8 GPUs x 4 images of 512 x 512; 40.8 GMACs for one such image.
Command: torchrun --nproc_per_node 8 tools/train.py configs/semfpn_pvtv2-b2-li_ade20k.py --launcher pytorch
Deviations: those of semfpn_pvtv2_ade20k.py.
"""

_base_ = './semfpn_pvtv2_ade20k.py'

model = dict(backbone=dict(arch='b2-li'))
