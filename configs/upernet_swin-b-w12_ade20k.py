"""UperNet, Swin-B with windows of 12, ADE20K, 160k iterations.

Expected: on ImageNet-1k weights 48.35 mIoU, 49.65 with multi-scale and flip testing, on ImageNet-22k weights 50.76 and
    52.4, all reported by mmsegmentation; not measured by us.
Weights: swin_base_patch4_window12_384.pth (ImageNet-1k) or swin_base_patch4_window12_384_22k.pth (ImageNet-22k) by
    --load-from; random without.
Parameters: 121.42 M.
Cost: 8 GPUs x 2 images of 512 x 512, 8.5 GB on each (reported by mmsegmentation).
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_swin-b-w12_ade20k.py --launcher pytorch
Deviations: those of upernet_swin_ade20k.py.
"""

_base_ = './upernet_swin_ade20k.py'

model = dict(
    backbone=dict(arch='B', window_size=12),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
