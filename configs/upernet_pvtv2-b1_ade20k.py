"""UperNet, PVTv2-B1, ADE20K, 160k iterations.

Expected: none published.
Weights: pvt_v2_b1.pth (ImageNet-1k) by --load-from; random without.
Parameters: 43.98 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_pvtv2-b1_ade20k.py --launcher pytorch --amp
Deviations: those of upernet_pvtv2_ade20k.py.
"""

_base_ = './upernet_pvtv2_ade20k.py'

model = dict(backbone=dict(arch='b1'))
