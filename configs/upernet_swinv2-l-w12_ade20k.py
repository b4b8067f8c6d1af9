"""UperNet, Swin V2-L, windows of 12, ADE20K, 160k iterations.

Expected: none published.
Weights: swinv2_large_patch4_window12_192_22k.pth (ImageNet-22k) by --load-from; random without.
Parameters: 233.97 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_swinv2-l-w12_ade20k.py --launcher pytorch --amp
Deviations: those of upernet_swinv2_ade20k.py.
"""

_base_ = './upernet_swinv2_ade20k.py'

# pre-trained at 192 pixels, where the last stage is a single window of 6
model = dict(
    backbone=dict(arch='L', window_size=12, pretrained_window_sizes=(12, 12, 12, 6)),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
