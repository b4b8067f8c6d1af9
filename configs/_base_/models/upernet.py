"""UperNet (https://arxiv.org/abs/1807.10221) on four maps, 150 classes.

A config adds the backbone, the channels of its maps (``decode_head.in_channels``) and those of its third map
(``auxiliary_head.in_channels``), whose stride is 16.
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
    decode_head=dict(
        type='densevit.UPerHead',
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=num_classes,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='densevit.FCNHead',
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=num_classes,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
