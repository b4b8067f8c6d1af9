"""Cascade Mask R-CNN, Swin-T, COCO, 36 epochs.

Expected: 50.4 box AP, 43.7 mask AP reported by the official code; not measured by us.
Weights: swin_tiny_patch4_window7_224.pth (ImageNet-1k) by --load-from; random without.
Parameters: 85.63 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/cascade_mask_rcnn_swin_coco.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/cascade_mask_rcnn_swin_coco.py --amp --accumulate 8
Deviations: none known from `SwinTransformer/Swin-Transformer-Object-Detection`, commit c7b2011, but bfloat16 in the
    place of its float16.
"""

_base_ = [
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/adamw_3x.py',
    './_base_/runtime/mmdet.py',
]

# Cascade R-CNN (https://arxiv.org/abs/1712.00726): three stages, each stricter about what overlaps enough; their box
# heads have four convolutions, and their loss is the GIoU of the decoded boxes.
num_classes = 80
# BN becomes SyncBN where a run is distributed on CUDA (see densevit/engine/options.py)
norm_cfg = dict(type='BN', requires_grad=True)

model = dict(
    type='densevit.CascadeRCNN',
    backbone=dict(type='densevit.SwinTransformer', arch='T', window_size=7, drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
    rpn_head=dict(loss_bbox=dict(_delete_=True, type='SmoothL1Loss', beta=1.0 / 9.0, loss_weight=1.0)),
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[
            dict(
                type='ConvFCBBoxHead',
                num_shared_convs=4,
                num_shared_fcs=1,
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=num_classes,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=stds),
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                norm_cfg=norm_cfg,
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
            )
            for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
        ],
    ),
    train_cfg=dict(
        rpn=dict(allowed_border=0),
        rpn_proposal=dict(max_per_img=2000),
        rcnn=[
            dict(
                assigner=dict(
                    type='MaxIoUAssigner',
                    pos_iou_thr=overlap,
                    neg_iou_thr=overlap,
                    min_pos_iou=overlap,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(type='RandomSampler', num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
                mask_size=28,
                pos_weight=-1,
                debug=False,
            )
            for overlap in (0.5, 0.6, 0.7)
        ],
    ),
)
# by name, so that the heads' BatchNorm decays as in the original
optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={'norm': dict(decay_mult=0.0), 'relative_position_bias_table': dict(decay_mult=0.0)},
    )
)
