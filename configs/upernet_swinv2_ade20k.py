"""UperNet, Swin V2-T, windows of 8, ADE20K, 160k iterations.

Expected: none published.
Weights: swinv2_tiny_patch4_window8_256.pth (ImageNet-1k) by --load-from; random without.
Parameters: 60.00 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_swinv2_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_swinv2_ade20k.py --amp --accumulate 8
Deviations: nothing was published for UperNet on Swin V2 of sizes T to L. The recipe is that of upernet_swin_ade20k.py.
"""

_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/runtime/mmseg.py',
]

model = dict(
    backbone=dict(type='densevit.SwinTransformerV2', arch='T', window_size=8, drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
# Swin's by name, with what Swin V2 has in the place of a bias table
optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={key: dict(decay_mult=0.0) for key in ('norm', 'cpb_mlp', 'logit_scale')},
    )
)
