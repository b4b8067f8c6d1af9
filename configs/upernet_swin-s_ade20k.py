"""UperNet, Swin-S, ADE20K, 160k iterations.

Expected: 47.64 mIoU, 49.47 with multi-scale and flip testing, reported by the official code; mmsegmentation reports
    47.72 and 49.24; not measured by us.
Weights: swin_small_patch4_window7_224.pth (ImageNet-1k) by --load-from; random without.
Parameters: 81.26 M.
Cost: 8 GPUs x 2 images of 512 x 512, 6.2 GB on each (reported by mmsegmentation).
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_swin-s_ade20k.py --launcher pytorch
Deviations: those of upernet_swin_ade20k.py.
"""

_base_ = './upernet_swin_ade20k.py'

model = dict(backbone=dict(arch='S'))
