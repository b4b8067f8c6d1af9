"""UperNet, ResNet-101, ADE20K, 160k iterations.

Expected: 43.82 mIoU, reported by mmsegmentation for a ResNet-101 with another stem, trained with SGD; not measured by
    us.
Weights: resnet101.a1h_in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; needed, for BatchNorm keeps their
    statistics.
Parameters: 85.49 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_timm-resnet-101_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_timm-resnet-101_ade20k.py --amp --accumulate 8
Deviations: those of upernet_timm-resnet-50_ade20k.py.
"""

_base_ = './upernet_timm-resnet-50_ade20k.py'

model = dict(backbone=dict(model_name='resnet101'))
