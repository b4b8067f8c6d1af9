"""UperNet, PatchConvNet-S60, ADE20K, 160k iterations.

Expected: 49.3 mIoU (reported by the paper, arXiv 2112.13692, most likely ImageNet-21k weights and
    multi-scale testing; not measured by us).
Parameters: 55.25 M; the paper counts 57.11 M, with the class attention, norm and 1000-class head that a
    segmentor does not use and that we do not build.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_patchconvnet_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_patchconvnet_ade20k.py --amp --accumulate 8
Deviations: PatchConvNet's dense recipe was never published. This is XCiT's, to which its authors point
    (`facebookresearch/deit` issue 138; `facebookresearch/xcit`, commit 82f5291): AdamW 6e-5, weight decay 0.01, poly
    decay, 16 images; stochastic depth 0.1 is our choice. All levels are made of the last block's map. Weights start
    random; official ImageNet weights are taken by --load-from FILE.
"""

_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/runtime/mmseg.py',
]

embed_dims = 384
model = dict(
    backbone=dict(type='densevit.PatchConvNet', arch='S60', drop_path_rate=0.1),
    neck=dict(type='densevit.ColumnarPyramid', in_channels=embed_dims, norm_cfg=dict(type='BN', requires_grad=True)),
    decode_head=dict(in_channels=[embed_dims] * 4),
    auxiliary_head=dict(in_channels=embed_dims),
)
