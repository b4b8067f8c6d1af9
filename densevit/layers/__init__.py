"""Building blocks that two or more parts share: pure torch, without config or registry.

Legend of the shape comments in the whole package:
B batch, H W height and width of a map in tokens, C channels, L = H * W, S number of keys, K queries or classes,
h heads, d channels per head, w window side, n windows. Height always stands before width.

Inside a backbone a map is (B, H, W, C): a linear layer is then a 1 x 1 convolution and LayerNorm needs no transpose;
``to_nchw`` and ``to_nhwc`` change the view at the border, without a copy.
"""

from .attention import ATTN_BACKENDS, attention, attention_scores, merge_heads, split_heads
from .convert import to_nchw, to_nhwc
from .folding import Foldable, fold_batch_norm
from .learned_aggregation import LearnedAggregation
from .mlp import Mlp
from .patch_embed import PatchEmbed
from .position import resample_position
from .squeeze_excite import SqueezeExcite
from .stem import ConvStem
from .transformer_block import TransformerBlock, check_drop_path_rate, stochastic_depth_rates
from .windows import (
    cut_windows,
    join_windows,
    pad_to_multiple,
    relative_position_bias,
    shift_mask,
    window_attention,
)

__all__ = [
    'ATTN_BACKENDS',
    'ConvStem',
    'Foldable',
    'LearnedAggregation',
    'Mlp',
    'PatchEmbed',
    'SqueezeExcite',
    'TransformerBlock',
    'attention',
    'attention_scores',
    'check_drop_path_rate',
    'cut_windows',
    'fold_batch_norm',
    'join_windows',
    'merge_heads',
    'pad_to_multiple',
    'relative_position_bias',
    'resample_position',
    'shift_mask',
    'split_heads',
    'stochastic_depth_rates',
    'to_nchw',
    'to_nhwc',
    'window_attention',
]
