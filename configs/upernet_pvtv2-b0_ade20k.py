"""UperNet, PVTv2-B0, ADE20K, 160k iterations.

Expected: none published.
Weights: pvt_v2_b0.pth (ImageNet-1k) by --load-from; random without.
Parameters: 31.69 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_pvtv2-b0_ade20k.py --launcher pytorch --amp
Deviations: those of upernet_pvtv2_ade20k.py.
"""

_base_ = './upernet_pvtv2_ade20k.py'

model = dict(
    backbone=dict(arch='b0'),
    decode_head=dict(in_channels=[32, 64, 160, 256]),
    auxiliary_head=dict(in_channels=160),
)
