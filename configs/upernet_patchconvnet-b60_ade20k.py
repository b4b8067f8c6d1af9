"""UperNet, PatchConvNet-B60, ADE20K, 160k iterations.

Expected: 51.1 mIoU, reported by the paper (arXiv 2112.13692), see the S60 file; not measured by us.
Parameters: 133.93 M; 140.61 M with the classifier's own head, which we do not build.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_patchconvnet-b60_ade20k.py --launcher pytorch --amp
Deviations: those of upernet_patchconvnet_ade20k.py; stochastic depth 0.2 is our choice.
"""

_base_ = './upernet_patchconvnet_ade20k.py'

embed_dims = 768
model = dict(
    backbone=dict(arch='B60', drop_path_rate=0.2),
    neck=dict(in_channels=embed_dims),
    decode_head=dict(in_channels=[embed_dims] * 4),
    auxiliary_head=dict(in_channels=embed_dims),
)
