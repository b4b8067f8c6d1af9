"""Semantic FPN, PVT-Small, ADE20K, 40k iterations of 32 images.

Expected: 41.9 mIoU reported by the official code, 39.8 by the paper (arXiv 2102.12122); not measured by us.
Weights: pvt_small.pth (ImageNet-1k) by --load-from; random without.
Parameters: 28.24 M.
Cost: 8 GPUs x 4 images of 512 x 512; 44.5 GMACs for one such image.
Command: torchrun --nproc_per_node 8 tools/train.py configs/semfpn_pvt_ade20k.py --launcher pytorch
    One GPU: python tools/train.py configs/semfpn_pvt_ade20k.py --accumulate 8
Deviations: none known from `whai362/PVT`, commit 57e2dfa, `segmentation/`; mmsegmentation's ResizeToMultiple takes the
    place of its AlignResize.
"""

_base_ = [
    './_base_/models/semfpn.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_40k.py',
    './_base_/runtime/mmseg.py',
]

model = dict(
    backbone=dict(type='densevit.PyramidVisionTransformer', arch='small', drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
train_dataloader = dict(batch_size=4)
# patch embedding drops a remainder of the image: test images are stretched to multiples of 32
test_pipeline = {{_base_.aligned_test_pipeline}}
tta_pipeline = {{_base_.aligned_tta_pipeline}}
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(interval=4000))
