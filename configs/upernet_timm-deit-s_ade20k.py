"""UperNet, DeiT-S/16, ADE20K, 160k iterations.

Expected: 42.87 to 43.82 mIoU, reported by mmsegmentation for its variants; not measured by us.
Weights: deit_small_patch16_224.fb_in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; random without.
Parameters: 53.87 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_timm-deit-s_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_timm-deit-s_ade20k.py --amp --accumulate 8
Deviations: from mmsegmentation's: the levels are made by XCiT's adapter, of blocks 4, 6, 8 and 12 in the place of 3, 6,
    9 and 12; the maps are not normed; the auxiliary head is on the third level, not on the last.
"""

_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/runtime/mmseg.py',
]

embed_dims = 384
model = dict(
    backbone=dict(
        type='densevit.TimmBackbone',
        model_name='deit_small_patch16_224',
        model_args=dict(img_size=512),  # the position table has the size of the crops
        drop_path_rate=0.1,
    ),
    neck=dict(type='densevit.ColumnarPyramid', in_channels=embed_dims, norm_cfg=dict(type='BN', requires_grad=True)),
    decode_head=dict(in_channels=[embed_dims] * 4),
    auxiliary_head=dict(in_channels=embed_dims),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'pos_embed': dict(decay_mult=0.0), 'cls_token': dict(decay_mult=0.0)})
)
