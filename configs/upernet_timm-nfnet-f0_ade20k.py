"""UperNet, NFNet-F0, ADE20K, 160k iterations.

Expected: none published.
Weights: dm_nfnet_f0.dm_in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; random without.
Parameters: 119.66 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_timm-nfnet-f0_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_timm-nfnet-f0_ade20k.py --amp --accumulate 8
Deviations: those of upernet_timm-resnet-50_ade20k.py. The backbone has no norm; its gains, as norms elsewhere, do not
    decay. The adaptive clipping of gradients that its classification is trained with, by SGD, is left out: AdamW's
    steps do not grow with the gradients. Stochastic depth 0.1 is our choice.
"""

_base_ = './upernet_timm-resnet-50_ade20k.py'

model = dict(
    backbone=dict(model_name='dm_nfnet_f0', norm_eval=False, drop_path_rate=0.1),
    decode_head=dict(in_channels=[256, 512, 1536, 3072]),
    auxiliary_head=dict(in_channels=1536),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'gain': dict(decay_mult=0.0)}))
