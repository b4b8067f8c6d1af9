"""Semantic FPN (https://arxiv.org/abs/1901.02446) on four maps of strides 4 to 32, 150 classes.

A config adds the backbone and the channels of its maps (``neck.in_channels``).
"""

num_classes = 150
# BN becomes SyncBN where a run is distributed on CUDA (see densevit/engine/options.py)
norm_cfg = dict(type='BN', requires_grad=True)

model = dict(
    type='densevit.EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),  # training crops smaller than this are padded to it
    ),
    neck=dict(type='FPN', out_channels=256, num_outs=4),
    decode_head=dict(
        type='densevit.FPNHead',
        in_channels=[256] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        num_classes=num_classes,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
