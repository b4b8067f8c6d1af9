"""UperNet, PiT-S, ADE20K, 160k iterations.

Expected: none published.
Weights: pit_s_224.in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; random without.
Parameters: 49.45 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_timm-pit-s_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_timm-pit-s_ade20k.py --amp --accumulate 8
Deviations: nothing was published for UperNet on PiT. The recipe is that of Swin and XCiT; stochastic depth 0.1 is our
    choice. PiT has three maps, of strides 8, 16 and 32, and UperNet takes them as they are.
"""

_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/runtime/mmseg.py',
]

model = dict(
    backbone=dict(
        type='densevit.TimmBackbone',
        model_name='pit_s_224',
        model_args=dict(img_size=520),  # the position table has the size of the crops, with 4 pixels around them
        drop_path_rate=0.1,
    ),
    decode_head=dict(in_channels=[144, 288, 576], in_index=[0, 1, 2]),
    auxiliary_head=dict(in_channels=288, in_index=1),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'pos_embed': dict(decay_mult=0.0), 'cls_token': dict(decay_mult=0.0)})
)
