"""UperNet, CvT-13, ADE20K, 160k iterations.

Expected: none published.
Weights: an official CvT-13 file (ImageNet-1k or 22k, 224 or 384 pixels) by --load-from; needed, for BatchNorm keeps
    their statistics.
Parameters: 44.54 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_cvt_ade20k.py --launcher pytorch --amp
    --load-from FILE
    One GPU: python tools/train.py configs/upernet_cvt_ade20k.py --amp --accumulate 8 --load-from FILE
Deviations: nothing was published for UperNet on CvT. The recipe is Swin's, with the stochastic depth of CvT's
    classification. CvT has three maps, of strides 4, 8 and 16, and UperNet takes them as they are.
"""

_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/runtime/mmseg.py',
]

model = dict(
    # BatchNorm keeps the statistics of ImageNet: those of a few images per GPU are too noisy
    backbone=dict(type='densevit.CvT', arch='13', norm_eval=True, drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 192, 384], in_index=[0, 1, 2]),
    auxiliary_head=dict(in_channels=384),
)
