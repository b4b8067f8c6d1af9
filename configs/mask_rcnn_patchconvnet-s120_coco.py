"""Mask R-CNN, PatchConvNet-S120, COCO, 36 epochs.

Expected: 47.0 box AP, reported by the paper (arXiv 2112.13692), see the S60 file; not measured by us.
Parameters: 67.93 M; 69.79 M with the classifier's own head, which we do not build.
Cost: 8 GPUs x 2 images of up to 1333 x 800.
Command: torchrun --nproc_per_node 8 tools/train.py configs/mask_rcnn_patchconvnet-s120_coco.py --launcher pytorch --amp
Deviations: those of mask_rcnn_patchconvnet_coco.py; stochastic depth 0.2 is our choice.
"""

_base_ = './mask_rcnn_patchconvnet_coco.py'

model = dict(backbone=dict(arch='S120', drop_path_rate=0.2))
