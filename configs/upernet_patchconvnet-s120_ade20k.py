"""UperNet, PatchConvNet-S120, ADE20K, 160k iterations.

Expected: none published.
Parameters: 77.74 M; 79.61 M with the classifier's own head, which we do not build.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_patchconvnet-s120_ade20k.py --launcher pytorch --amp
Deviations: those of upernet_patchconvnet_ade20k.py; stochastic depth 0.2 is our choice.
"""

_base_ = './upernet_patchconvnet_ade20k.py'

model = dict(backbone=dict(arch='S120', drop_path_rate=0.2))
