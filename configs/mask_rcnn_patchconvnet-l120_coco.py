"""Mask R-CNN, PatchConvNet-L120, COCO, 36 epochs.

Expected: none published.
Parameters: 356.31 M; 367.84 M with the classifier's own head, which we do not build.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_patchconvnet-l120_coco.py --launcher pytorch --amp
Deviations: those of mask_rcnn_patchconvnet_coco.py; stochastic depth 0.3 is our choice.
"""

_base_ = './mask_rcnn_patchconvnet_coco.py'

embed_dims = 1024
model = dict(
    backbone=dict(arch='L120', drop_path_rate=0.3),
    neck=[
        dict(type='densevit.ColumnarPyramid', in_channels=embed_dims, norm_cfg=dict(type='BN', requires_grad=True)),
        dict(type='FPN', in_channels=[embed_dims] * 4, out_channels=256, num_outs=5),
    ],
)
