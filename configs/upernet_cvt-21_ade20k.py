"""UperNet, CvT-21, ADE20K, 160k iterations.

Expected: none published.
Weights: an official CvT-21 file (ImageNet-1k or 22k, 224 or 384 pixels) by --load-from; needed, for BatchNorm keeps
    their statistics.
Parameters: 56.17 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_cvt-21_ade20k.py --launcher pytorch --amp
    --load-from FILE
Deviations: those of upernet_cvt_ade20k.py.
"""

_base_ = './upernet_cvt_ade20k.py'

model = dict(backbone=dict(arch='21'))
