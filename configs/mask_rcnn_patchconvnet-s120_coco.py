"""Mask R-CNN, PatchConvNet-S120, COCO, 36 epochs.

Expected: 47.0 box AP (reported by the paper, arXiv 2112.13692; mask AP not reported; not measured by us).
Parameters: 67.93 M; 69.79 M with the class attention, norm and 1000-class head that a detector does not use and
    that we do not build.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_patchconvnet-s120_coco.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/mask_rcnn_patchconvnet-s120_coco.py --amp --accumulate 8
Deviations: PatchConvNet's dense recipe was never published. This is XCiT's, to which its authors point
    (`facebookresearch/deit` issue 138; `facebookresearch/xcit`, commit 82f5291): AdamW 1e-4, weight decay 0.05, 3x,
    Swin's augmentation; stochastic depth 0.2 is our choice. All levels are made of the last block's map. Weights start
    random; official ImageNet weights are taken by --load-from FILE.
"""

_base_ = [
    './_base_/models/mask_rcnn_patchconvnet.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/adamw_3x.py',
    './_base_/runtime/mmdet.py',
]

model = dict(backbone=dict(arch='S120', drop_path_rate=0.2))
