"""UperNet, Swin-B, ADE20K, 160k iterations.

Expected: 48.13 mIoU, 49.72 with multi-scale and flip testing, reported by the official code on ImageNet-1k weights;
    mmsegmentation reports 47.99 and 49.57, on ImageNet-22k weights 50.13 (50.31 in its README) and 51.9; not measured
    by us.
Weights: swin_base_patch4_window7_224.pth (ImageNet-1k) or swin_base_patch4_window7_224_22k.pth (ImageNet-22k) by
    --load-from; random without.
Parameters: 121.28 M.
Cost: 8 GPUs x 2 images of 512 x 512, 7.6 GB on each (reported by mmsegmentation).
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_swin-b_ade20k.py --launcher pytorch
Deviations: those of upernet_swin_ade20k.py.
"""

_base_ = './upernet_swin_ade20k.py'

model = dict(
    backbone=dict(arch='B'),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
