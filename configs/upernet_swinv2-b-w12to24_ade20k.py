"""UperNet, Swin V2-B, windows of 24, ADE20K, 160k iterations.

Expected: none published.
Weights: swinv2_base_patch4_window12to24_192to384_22kto1k_ft.pth (ImageNet-22k, fine-tuned to 1k) by --load-from;
    random without.
Parameters: 121.43 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_swinv2-b-w12to24_ade20k.py --launcher pytorch --amp
Deviations: those of upernet_swinv2_ade20k.py.
"""

_base_ = './upernet_swinv2_ade20k.py'

# pre-trained at 192 pixels, where the last stage is a single window of 6
model = dict(
    backbone=dict(arch='B', window_size=24, pretrained_window_sizes=(12, 12, 12, 6)),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
