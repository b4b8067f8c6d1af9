"""UperNet, Swin-L, ADE20K, 160k iterations.

Expected: none reported for crops of 512. The official code reports 52.05 mIoU, 53.53 with multi-scale and flip
    testing, on ImageNet-22k weights with crops of 640; the config was not released; not measured by us.
Weights: swin_large_patch4_window7_224_22k.pth (ImageNet-22k) by --load-from; random without.
Parameters: 233.76 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_swin-l_ade20k.py --launcher pytorch
Deviations: those of upernet_swin_ade20k.py; the stochastic depth is that of the smaller models.
"""

_base_ = './upernet_swin_ade20k.py'

model = dict(
    backbone=dict(arch='L'),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
