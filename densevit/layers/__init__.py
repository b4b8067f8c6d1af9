"""Building blocks that two or more parts share: pure torch, without config or registry.

Legend of the shape comments in the whole package:
B batch, H W height and width of a map in tokens, C channels, L = H * W, S number of keys, K queries or classes,
h heads, d channels per head, w window side, n windows. Height always stands before width.

Inside a backbone a map is (B, H, W, C): a linear layer is then a 1 x 1 convolution and LayerNorm needs no transpose;
``to_nchw`` and ``to_nhwc`` change the view at the border, without a copy.
"""

from .attention import ATTN_BACKENDS, attention, attention_scores, merge_heads, split_heads
from .conv import conv3x3
from .convert import to_nchw, to_nhwc
from .folding import Foldable, fold_batch_norm
from .learned_aggregation import LearnedAggregation
from .mlp import Mlp
from .patch_embed import PatchEmbed
from .position import resample_position
from .roi_align import pyramid_roi_align
from .squeeze_excite import SqueezeExcite
from .stem import ConvStem
from .transformer_block import TransformerBlock, check_drop_path_rate, stochastic_depth_rates
from .upsampled_conv import add_resized_, split_conv_weight, upsampled_conv3x3
from .windows import WindowLayout, pad_to_multiple, relative_position_bias, window_attention, window_layout
from .winograd import transform_weight, winograd_conv3x3

__all__ = [
    'ATTN_BACKENDS',
    'ConvStem',
    'Foldable',
    'LearnedAggregation',
    'Mlp',
    'PatchEmbed',
    'SqueezeExcite',
    'TransformerBlock',
    'WindowLayout',
    'add_resized_',
    'attention',
    'attention_scores',
    'check_drop_path_rate',
    'conv3x3',
    'fold_batch_norm',
    'merge_heads',
    'pad_to_multiple',
    'pyramid_roi_align',
    'relative_position_bias',
    'resample_position',
    'split_conv_weight',
    'split_heads',
    'stochastic_depth_rates',
    'to_nchw',
    'to_nhwc',
    'transform_weight',
    'upsampled_conv3x3',
    'window_attention',
    'window_layout',
    'winograd_conv3x3',
]
