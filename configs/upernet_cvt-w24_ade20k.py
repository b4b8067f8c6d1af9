"""UperNet, CvT-W24, ADE20K, 160k iterations.

Expected: none published.
Weights: CvT-w24-384x384-IN-22k.pth (ImageNet-22k) by --load-from; needed, for BatchNorm keeps their statistics.
Parameters: 307.20 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_cvt-w24_ade20k.py --launcher pytorch --amp
    --load-from FILE
Deviations: those of upernet_cvt_ade20k.py.
"""

_base_ = './upernet_cvt_ade20k.py'

model = dict(
    backbone=dict(arch='W24', drop_path_rate=0.3),
    decode_head=dict(in_channels=[192, 768, 1024]),
    auxiliary_head=dict(in_channels=1024),
)
