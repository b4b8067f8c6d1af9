"""UperNet, PVT-Tiny, ADE20K, 160k iterations.

Expected: none published.
Weights: pvt_tiny.pth (ImageNet-1k) by --load-from; random without.
Parameters: 43.20 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_pvt-tiny_ade20k.py --launcher pytorch --amp
Deviations: those of upernet_pvt_ade20k.py.
"""

_base_ = './upernet_pvt_ade20k.py'

model = dict(backbone=dict(arch='tiny'))
