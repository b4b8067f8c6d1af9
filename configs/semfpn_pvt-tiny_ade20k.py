"""Semantic FPN, PVT-Tiny, ADE20K, 40k iterations of 32 images.

Expected: 36.6 mIoU reported by the official code, 35.7 by the paper (arXiv 2102.12122); not measured by us.
Weights: pvt_tiny.pth (ImageNet-1k) by --load-from; random without.
Parameters: 16.98 M.
Cost: 8 GPUs x 4 images of 512 x 512; 33.2 GMACs for one such image.
Command: torchrun --nproc_per_node 8 tools/train.py configs/semfpn_pvt-tiny_ade20k.py --launcher pytorch
Deviations: those of semfpn_pvt_ade20k.py.
"""

_base_ = './semfpn_pvt_ade20k.py'

model = dict(backbone=dict(arch='tiny'))
