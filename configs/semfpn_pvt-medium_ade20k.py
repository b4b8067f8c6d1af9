"""Semantic FPN, PVT-Medium, ADE20K, 40k iterations of 32 images.

Expected: 43.5 mIoU reported by the official code, 41.6 by the paper (arXiv 2102.12122); not measured by us.
Weights: pvt_medium.pth (ImageNet-1k) by --load-from; random without.
Parameters: 47.96 M.
Cost: 8 GPUs x 4 images of 512 x 512; 61.0 GMACs for one such image.
Command: torchrun --nproc_per_node 8 tools/train.py configs/semfpn_pvt-medium_ade20k.py --launcher pytorch
Deviations: those of semfpn_pvt_ade20k.py.
"""

_base_ = './semfpn_pvt_ade20k.py'

model = dict(backbone=dict(arch='medium'))
