"""UperNet, CaiT-S24/16, ADE20K, 160k iterations.

Expected: none published.
Weights: cait_s24_224.fb_dist_in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; random without.
Parameters: 75.18 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_timm-cait-s24_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_timm-cait-s24_ade20k.py --amp --accumulate 8
Deviations: nothing was published for UperNet on CaiT. The recipe is XCiT's, with stochastic depth 0.1, our choice. The
    two blocks of class attention make no map and are left out.
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
        model_name='cait_s24_224',
        model_args=dict(img_size=512),  # the position table has the size of the crops
        drop_path_rate=0.1,
    ),
    neck=dict(type='densevit.ColumnarPyramid', in_channels=embed_dims, norm_cfg=dict(type='BN', requires_grad=True)),
    decode_head=dict(in_channels=[embed_dims] * 4),
    auxiliary_head=dict(in_channels=embed_dims),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'pos_embed': dict(decay_mult=0.0)}))
