"""Mask R-CNN, CvT-13, COCO, 36 epochs.

Expected: none published.
Weights: an official CvT-13 file (ImageNet-1k or 22k, 224 or 384 pixels) by --load-from; needed, for BatchNorm keeps
    their statistics.
Parameters: 39.09 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_cvt_coco.py --launcher pytorch --amp
    --load-from FILE
    One GPU: python tools/train.py configs/mask_rcnn_cvt_coco.py --amp --accumulate 8 --load-from FILE
Deviations: nothing was published for Mask R-CNN on CvT. The recipe is Swin's, with the stochastic depth of CvT's
    classification. CvT has three maps, of strides 4, 8 and 16; FPN makes those of strides 32 and 64 from its coarsest,
    by subsampling.
"""

_base_ = [
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/adamw_3x.py',
    './_base_/runtime/mmdet.py',
]

model = dict(
    # BatchNorm keeps the statistics of ImageNet: those of a few images per GPU are too noisy
    backbone=dict(type='densevit.CvT', arch='13', norm_eval=True, drop_path_rate=0.1),
    neck=dict(in_channels=[64, 192, 384]),
)
