"""UperNet, ResNet-50, ADE20K, 160k iterations.

Expected: 42.05 mIoU, reported by mmsegmentation for a ResNet-50 with another stem, trained with SGD; not measured by
    us.
Weights: resnet50.a1_in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; needed, for BatchNorm keeps their
    statistics.
Parameters: 66.50 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_timm-resnet-50_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_timm-resnet-50_ade20k.py --amp --accumulate 8
Deviations: a reference for the transformers beside it, trained as they are, by the schedule of Swin and XCiT. ResNets
    are usually trained with SGD.
"""

_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/runtime/mmseg.py',
]

model = dict(
    # BatchNorm keeps the statistics of ImageNet: those of a few images per GPU are too noisy
    backbone=dict(type='densevit.TimmBackbone', model_name='resnet50', norm_eval=True, drop_path_rate=0.0),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024),
)
