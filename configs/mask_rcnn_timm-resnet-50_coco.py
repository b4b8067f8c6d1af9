"""Mask R-CNN, ResNet-50, COCO, 36 epochs.

Expected: 40.9 box AP, 37.1 mask AP, reported by mmdetection, trained with SGD on short sides of 640 to 800 pixels; not
    measured by us.
Weights: resnet50.a1_in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; needed, for BatchNorm keeps their
    statistics.
Parameters: 44.40 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_timm-resnet-50_coco.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/mask_rcnn_timm-resnet-50_coco.py --amp --accumulate 8
Deviations: a reference for the transformers beside it, trained as they are, by the schedule of Swin and XCiT. ResNets
    are usually trained with SGD, with the first stage frozen.
"""

_base_ = [
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/adamw_3x.py',
    './_base_/runtime/mmdet.py',
]

model = dict(
    # BatchNorm keeps the statistics of ImageNet: those of a few images per GPU are too noisy
    backbone=dict(type='densevit.TimmBackbone', model_name='resnet50', norm_eval=True, drop_path_rate=0.0),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
