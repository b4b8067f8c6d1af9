"""UperNet, PVT-Medium, ADE20K, 160k iterations.

Expected: none published.
Weights: pvt_medium.pth (ImageNet-1k) by --load-from; random without.
Parameters: 74.18 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_pvt-medium_ade20k.py --launcher pytorch --amp
Deviations: those of upernet_pvt_ade20k.py.
"""

_base_ = './upernet_pvt_ade20k.py'

model = dict(backbone=dict(arch='medium'))
