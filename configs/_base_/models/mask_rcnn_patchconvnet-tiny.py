"""Mask R-CNN on a PatchConvNet of 0.44 M parameters, for small data and training from scratch.

The column is the one of upernet_patchconvnet-tiny.py. Heads are a quarter as wide as for COCO, proposals and samples
fewer: with one class and small images more of them only cost time.
"""

_base_ = './mask_rcnn.py'

embed_dims = 128
num_classes = 1

model = dict(
    backbone=dict(
        type='densevit.PatchConvNet',
        arch=dict(embed_dims=embed_dims, depth=8, layer_scale_init=0.1, stem_depth=3),
    ),
    neck=[
        dict(
            type='densevit.ColumnarPyramid',
            in_channels=embed_dims,
            norm_cfg=dict(type='BN', requires_grad=True),
            scales=(2, 1, 0.5, 0.25),
        ),
        dict(type='FPN', in_channels=[embed_dims] * 4, out_channels=64, num_outs=4),
    ],
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[3], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        # a RoI of up to 2 * 28 pixels is read from the finest level, one of up to 4 * 28 from the next
        bbox_roi_extractor=dict(out_channels=64, finest_scale=28),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=num_classes),
        mask_roi_extractor=dict(out_channels=64, finest_scale=28),
        mask_head=dict(in_channels=64, conv_out_channels=64, num_classes=num_classes),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=1000, max_per_img=300),
        rcnn=dict(sampler=dict(num=128)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=300)),
)
