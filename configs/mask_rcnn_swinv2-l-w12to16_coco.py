"""Mask R-CNN, Swin V2-L, windows of 16, COCO, 36 epochs.

Expected: none published.
Weights: swinv2_large_patch4_window12to16_192to256_22kto1k_ft.pth (ImageNet-22k, fine-tuned to 1k) by --load-from;
    random without.
Parameters: 215.85 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_swinv2-l-w12to16_coco.py --launcher pytorch --amp
Deviations: those of mask_rcnn_swinv2_coco.py; the stochastic depth is that of Cascade Mask R-CNN on Swin-B.
"""

_base_ = './mask_rcnn_swinv2_coco.py'

# pre-trained at 192 pixels, where the last stage is a single window of 6
model = dict(
    backbone=dict(arch='L', window_size=16, pretrained_window_sizes=(12, 12, 12, 6), drop_path_rate=0.3),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
