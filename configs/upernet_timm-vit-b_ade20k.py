"""UperNet, ViT-B/16, ADE20K, 160k iterations.

Expected: 47.73 mIoU, reported by mmsegmentation for a ViT-B with LayerNorm on its maps and another
    neck (its MultiLevelNeck); not measured by us.
Weights: vit_base_patch16_224.augreg2_in21k_ft_in1k (ImageNet-22k, fine-tuned on ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; random without.
Parameters: 127.66 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_timm-vit-b_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_timm-vit-b_ade20k.py --amp --accumulate 8
Deviations: from mmsegmentation's: the levels are made by XCiT's adapter, of blocks 4, 6, 8 and 12 in the place of 3, 6,
    9 and 12; the maps are not normed; the auxiliary head is on the third level, not on the last; weights are
    newer, and images normalized as those were trained, with 0.5.
"""

_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/runtime/mmseg.py',
]

embed_dims = 768
model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),  # as the weights were trained
    backbone=dict(
        type='densevit.TimmBackbone',
        model_name='vit_base_patch16_224',
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
