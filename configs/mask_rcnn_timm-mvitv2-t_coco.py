"""Mask R-CNN, MViTv2-T, COCO, 36 epochs.

Expected: 48.3 box AP, 43.8 mask AP reported by the official code, with windowed attention, norms on the maps and 64
    images per step; not measured by us.
Weights: mvitv2_tiny.fb_in1k (ImageNet-1k), fetched by timm with
    --cfg-options model.backbone.pretrained=True, or the file by --load-from; random without.
Parameters: 43.68 M.
Cost: 8 GPUs x 2 images of up to 1333 x 800. Attention is over whole images and keeps its weights: where memory is
    short, take --cfg-options model.backbone.with_cp=True.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_timm-mvitv2-t_coco.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/mask_rcnn_timm-mvitv2-t_coco.py --amp --accumulate 8
Deviations: in `facebookresearch/detectron2`, commit 4febd2d, `projects/MViTv2/`, attention is in windows but for the
    last block of three stages, where two of these pool keys and values twice as far, and every map is normed; timm has
    none of this. Its batch is 64, its learning rate 1.6e-4 and its weight decay 0.1; the schedule here is that of Swin
    and XCiT.
"""

_base_ = [
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/adamw_3x.py',
    './_base_/runtime/mmdet.py',
]

model = dict(
    backbone=dict(type='densevit.TimmBackbone', model_name='mvitv2_tiny', drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'rel_pos': dict(decay_mult=0.0)}))
