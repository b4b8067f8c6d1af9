"""Mask R-CNN, PatchConvNet-S60, COCO, 36 epochs.

Expected: 46.4 box AP (reported by the paper, arXiv 2112.13692; mask AP not reported; not measured by us).
Parameters: 45.43 M; 47.3 M with the class attention, norm and 1000-class head that a detector does not use and
    that we do not build.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_patchconvnet_coco.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/mask_rcnn_patchconvnet_coco.py --amp --accumulate 8
Deviations: PatchConvNet's dense recipe was never published. This is XCiT's, to which its authors point
    (`facebookresearch/deit` issue 138; `facebookresearch/xcit`, commit 82f5291): AdamW 1e-4, weight decay 0.05, 3x,
    Swin's augmentation; stochastic depth 0.1 is our choice. All levels are made of the last block's map. Weights start
    random; official ImageNet weights are taken by --load-from FILE.
"""

_base_ = [
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/adamw_3x.py',
    './_base_/runtime/mmdet.py',
]

embed_dims = 384
model = dict(
    backbone=dict(type='densevit.PatchConvNet', arch='S60', drop_path_rate=0.1),
    # BN becomes SyncBN where a run is distributed on CUDA (see densevit/engine/options.py)
    neck=[
        dict(type='densevit.ColumnarPyramid', in_channels=embed_dims, norm_cfg=dict(type='BN', requires_grad=True)),
        dict(type='FPN', in_channels=[embed_dims] * 4, out_channels=256, num_outs=5),
    ],
)
