"""UperNet on a PatchConvNet of 0.44 M parameters, for small data and training from scratch.

Width 128, depth 8, a stem of three convolutions: stride 8 instead of 16, so that small things survive it. The
pyramid's factors are those that give strides 4, 8, 16 and 32 again. LayerScale starts at 0.1, not at 1e-6: a shallow
column needs no help to start as the identity, and learns faster without.
"""

_base_ = './upernet.py'

embed_dims = 128
norm_cfg = dict(type='BN', requires_grad=True)

model = dict(
    data_preprocessor=dict(size=(256, 256)),
    backbone=dict(
        type='densevit.PatchConvNet',
        arch=dict(embed_dims=embed_dims, depth=8, layer_scale_init=0.1, stem_depth=3),
    ),
    neck=dict(
        type='densevit.ColumnarPyramid',
        in_channels=embed_dims,
        norm_cfg=norm_cfg,
        scales=(2, 1, 0.5, 0.25),
    ),
    decode_head=dict(in_channels=[embed_dims] * 4, channels=48),
    auxiliary_head=None,
)
