"""UperNet, PVTv2-B2, ADE20K, 160k iterations.

Expected: none published.
Weights: pvt_v2_b2.pth (ImageNet-1k) by --load-from; random without.
Parameters: 55.34 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_pvtv2_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_pvtv2_ade20k.py --amp --accumulate 8
Deviations: nothing was published for UperNet on PVTv2. The recipe is Swin's, with the stochastic depth of PVTv2's
    Semantic FPN.
"""

_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/runtime/mmseg.py',
]

model = dict(
    backbone=dict(type='densevit.PyramidVisionTransformerV2', arch='b2', drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
