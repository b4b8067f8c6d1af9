"""UperNet, EfficientNetV2-S, ADE20K, 160k iterations.

Expected: none published.
Weights: tf_efficientnetv2_s.in21k_ft_in1k (ImageNet-22k, fine-tuned on ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; needed, for BatchNorm keeps their
    statistics.
Parameters: 48.14 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_timm-efficientnetv2-s_ade20k.py --launcher pytorch
    --amp
    One GPU: python tools/train.py configs/upernet_timm-efficientnetv2-s_ade20k.py --amp --accumulate 8
Deviations: those of upernet_timm-resnet-50_ade20k.py. Stochastic depth 0.2 is that of its classification. Images are
    normalized as these weights were trained, with 0.5.
"""

_base_ = './upernet_timm-resnet-50_ade20k.py'

model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),  # as the weights were trained
    backbone=dict(model_name='tf_efficientnetv2_s', drop_path_rate=0.2),
    decode_head=dict(in_channels=[48, 64, 160, 256]),
    auxiliary_head=dict(in_channels=160),
)
