"""UperNet, Swin V2-B, windows of 16, ADE20K, 160k iterations.

Expected: none published.
Weights: swinv2_base_patch4_window16_256.pth (ImageNet-1k) by --load-from; random without.
Parameters: 121.43 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_swinv2-b-w16_ade20k.py --launcher pytorch --amp
Deviations: those of upernet_swinv2_ade20k.py.
"""

_base_ = './upernet_swinv2_ade20k.py'

# pre-trained at 256 pixels, where the last stage is a single window of 8
model = dict(
    backbone=dict(arch='B', window_size=16, pretrained_window_sizes=(16, 16, 16, 8)),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
