"""UperNet, MViTv2-S, ADE20K, 160k iterations.

Expected: none published.
Weights: mvitv2_small.fb_in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; random without.
Parameters: 66.52 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_timm-mvitv2-s_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_timm-mvitv2-s_ade20k.py --amp --accumulate 8
Deviations: nothing was published for UperNet on MViTv2. The recipe is that of Swin and XCiT, with stochastic depth 0.2,
    our choice. Relative positions do not decay, as in its detection.
"""

_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/runtime/mmseg.py',
]

model = dict(
    backbone=dict(type='densevit.TimmBackbone', model_name='mvitv2_small', drop_path_rate=0.2),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'rel_pos': dict(decay_mult=0.0)}))
