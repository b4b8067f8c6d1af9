"""Building blocks that two or more parts share: pure torch, without config or registry.

Legend of the shape comments in the whole package:
B batch, H W height and width of a map in tokens, C channels, L = H * W, S number of keys, K queries or classes,
h heads, d channels per head. Height always stands before width.

Inside a backbone a map is (B, H, W, C): a linear layer is then a 1 x 1 convolution and LayerNorm needs no transpose;
``to_nchw`` and ``to_nhwc`` change the view at the border, without a copy.
"""

from .attention import ATTN_BACKENDS, attention, attention_scores
from .convert import to_nchw, to_nhwc
from .learned_aggregation import LearnedAggregation
from .mlp import Mlp
from .squeeze_excite import SqueezeExcite
from .stem import ConvStem

__all__ = [
    'ATTN_BACKENDS',
    'ConvStem',
    'LearnedAggregation',
    'Mlp',
    'SqueezeExcite',
    'attention',
    'attention_scores',
    'to_nchw',
    'to_nhwc',
]
