"""UperNet, BiT ResNet-50x1, ADE20K, 160k iterations.

Expected: none published.
Weights: resnetv2_50x1_bit.goog_in21k (ImageNet-22k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; random without.
Parameters: 66.49 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_timm-bit-50x1_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_timm-bit-50x1_ade20k.py --amp --accumulate 8
Deviations: those of upernet_timm-resnet-50_ade20k.py. There is no BatchNorm to keep still: GroupNorm has no statistics.
    Images are normalized as these weights were trained, with 0.5.
"""

_base_ = './upernet_timm-resnet-50_ade20k.py'

model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),  # as the weights were trained
    backbone=dict(model_name='resnetv2_50x1_bit.goog_in21k', norm_eval=False),
)
