"""UperNet, PVT-Small, ADE20K, 160k iterations.

Expected: none published.
Weights: pvt_small.pth (ImageNet-1k) by --load-from; random without.
Parameters: 54.46 M.
Cost: 8 GPUs x 2 images of 512 x 512.
Command: torchrun --nproc_per_node 8 tools/train.py configs/upernet_pvt_ade20k.py --launcher pytorch --amp
    One GPU: python tools/train.py configs/upernet_pvt_ade20k.py --amp --accumulate 8
Deviations: nothing was published for UperNet on PVT. The recipe is Swin's, with the stochastic depth and the test
    images of PVT's Semantic FPN; position embeddings do not decay.
"""

_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/runtime/mmseg.py',
]

model = dict(
    backbone=dict(type='densevit.PyramidVisionTransformer', arch='small', drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'pos_embed': dict(decay_mult=0.0)}))
# patch embedding drops a remainder of the image: test images are stretched to multiples of 32
test_pipeline = {{_base_.aligned_test_pipeline}}
tta_pipeline = {{_base_.aligned_tta_pipeline}}
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
