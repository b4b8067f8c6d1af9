"""What every backbone of densevit promises to the necks and heads that use it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from numbers import Integral
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..checkpoints.origins import Recognised
from ..checkpoints.pretrained import always_whole
from ..errors import did_you_mean
from ..layers.attention import check_attn_backend
from ..layers.attention_record import AttentionRecord, Recordable, record_attention
from ..layers.transformer_block import TransformerBlock

__all__ = ['Backbone']


class Backbone(BaseModule):
    """Base class: from images to a tuple of maps.

    ``forward(x: (B, C, H, W))`` returns one contiguous (B, C_i, H_i, W_i) map per entry of ``out_indices``, fine to
    coarse; any H and W, any batch. ``out_channels`` and ``out_strides`` say what the maps are, aligned with them.
    A subclass sets both in the loop that builds its stages, and says in its docstring what happens to a remainder of
    H or W. Building reads no file and prints nothing; ``init_weights()`` initializes.

    Args:
        num_stages: how many outputs there are to choose from.
        out_indices: which of them ``forward`` returns, ascending; negative ones count from the end.
        frozen_stages: -1 freezes nothing, 0 the stem, n also the first n stages: no gradient, eval mode.
        with_cp: recompute the blocks in the backward pass instead of storing their activations.
        attn_backend: see :func:`densevit.layers.attention`; backbones without attention accept it too, so that a
            config can exchange the backbone alone.
        init_cfg: mmengine's initialization config. ``dict(type='densevit.Pretrained', checkpoint=PATH_OR_URL)`` loads
            whole or not at all, see :class:`densevit.checkpoints.Pretrained`; ``'Pretrained'`` means the same here.
        norm_eval: keep BatchNorm in eval mode while training, of the families that have it.

    Raises:
        ValueError: an argument outside its range; the message names the range.
    """

    ARCHS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # Keys of a custom arch that may be left out.
    ARCH_DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    # Parameters that a classifier's weights do not have, such as norms of the maps for dense heads.
    DENSE_ONLY: ClassVar[re.Pattern[str] | None] = None
    # Classes of the blocks that a backbone repeats: what is gathered at a time where processes divide its weights.
    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (TransformerBlock,)

    out_channels: tuple[int, ...]
    out_strides: tuple[int, ...]

    def __init__(
        self,
        *,
        num_stages: int,
        out_indices: Sequence[int],
        frozen_stages: int,
        with_cp: bool,
        attn_backend: str,
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
        norm_eval: bool = False,
    ) -> None:
        super().__init__(always_whole(init_cfg))
        if not -1 <= frozen_stages <= num_stages:
            raise ValueError(
                f'frozen_stages={frozen_stages} is outside -1 (nothing) to {num_stages} (stem and all stages)'
            )
        self.out_indices = _check_out_indices(out_indices, num_stages)
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.attn_backend = check_attn_backend(attn_backend)
        self.norm_eval = norm_eval

    @classmethod
    def resolve_arch(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        """The numbers of a variant, from its name in ``ARCHS`` or from a mapping with the same keys.

        Keys that a mapping leaves out must have a default in ``ARCH_DEFAULTS``.

        Raises:
            ValueError: an unknown name, an unknown key or a missing key, with the valid ones.
        """
        if isinstance(arch, int):
            arch = str(arch)  # a command line turns '21' into a number
        if not isinstance(arch, Mapping):
            if arch not in cls.ARCHS:
                raise ValueError(
                    f'{cls.__name__} has no arch {arch!r}{did_you_mean(str(arch), cls.ARCHS) or "."} '
                    f'Valid are {", ".join(cls.ARCHS)}, or a dict with their keys.'
                )
            arch = cls.ARCHS[arch]
        known = {*next(iter(cls.ARCHS.values())), *cls.ARCH_DEFAULTS}
        for key in arch:
            if key not in known:
                raise ValueError(
                    f'arch of {cls.__name__} has no key {key!r}{did_you_mean(key, known) or "."} '
                    f'Valid are {", ".join(sorted(known))}.'
                )
        missing = sorted(known - {*arch, *cls.ARCH_DEFAULTS})
        if missing:
            raise ValueError(f'arch of {cls.__name__} lacks {", ".join(missing)}')
        return {**cls.ARCH_DEFAULTS, **arch}

    def stages(self) -> Iterator[nn.Module | Sequence[nn.Module | nn.Parameter]]:
        """The stem, then each stage, whole or as a list of its parts: what ``frozen_stages`` counts."""
        raise NotImplementedError

    def is_unbuilt(self, name: str) -> bool:
        """Whether a parameter of this name belongs to a part that is left out, as no output needs it."""
        return False

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """A checkpoint's tensor in the size that this model needs, where that size goes by the image or the window.

        :func:`densevit.checkpoints.load_weights` asks where the shapes differ, and in files of other packages for every
        tensor, as a table can have as many entries and yet other rows.

        Args:
            name: the parameter's name in this backbone.
            tensor: what the checkpoint has under this name.

        Returns:
            A tensor of the parameter's shape, whose values may be computed anew; None where nothing is to be done, or
            the shapes differ for another reason.
        """
        return None

    def recognise(self, tensors: Mapping[str, Tensor]) -> Recognised | None:
        """A checkpoint's tensors by this backbone's names, where it knows them and ``checkpoints/origins.py`` does not.

        Args:
            tensors: of a classifier, of a backbone alone, or of a whole model with the backbone below ``backbone.``.
        """
        return None

    def follow(self, origin: str, has_heads: bool) -> str:
        """Compute as the package does where a checkpoint was trained, if that differs from the official code.

        Args:
            origin: label of the origin of what has just been loaded, as in ``'PVT, mm'``.
            has_heads: whether it was a whole segmentor or detector, so trained there.

        Returns:
            What has changed, for the report; nothing has where it is empty.
        """
        return ''

    def check_derived(self, tables: Mapping[str, Tensor]) -> None:
        """Look at the tables that a checkpoint's code has computed from its architecture, before they are left out.

        Args:
            tables: by the names that they would have in this backbone.

        Raises:
            CheckpointError: they tell that the weights do not mean in this model what they meant in theirs.
        """

    def init_weights(self) -> None:
        """Initialize as the official code, layer by layer, then by ``init_cfg``."""
        if not self.is_init:
            self.apply(self.init_layer)
        super().init_weights()

    def init_layer(self, module: nn.Module) -> None:
        """Give the parameters that are ``module``'s own, not its children's, their first values."""

    def freeze(self) -> None:
        """Apply ``frozen_stages``. Called at the end of ``__init__`` and by ``train()``."""
        for index, stage in enumerate(self.stages()):
            if index > self.frozen_stages:
                break
            for part in [stage] if isinstance(stage, nn.Module) else stage:
                part.requires_grad_(False)
                if isinstance(part, nn.Module):
                    part.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; frozen stages stay in eval mode, and with ``norm_eval`` every BatchNorm."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        self.freeze()
        return self

    def attention_layers(self) -> Iterator[tuple[str, Recordable, int]]:
        """Every attention layer in the order of the forward pass: name, module, and stride of its map in pixels.

        Names are ``stages.2.blocks.0`` in every family.
        """
        yield from ()

    def record_attention(self, layers: str | Sequence[str] = '*') -> AbstractContextManager[AttentionRecord]:
        """Record what the attention layers attend to while images pass; no output changes by that.

        Args:
            layers: names or patterns of what to record, such as ``'stages.3.*'``.

        Raises:
            ValueError: there is no such layer, or it is being recorded already.

        Example:
            >>> model = densevit.SwinTransformer('T')
            >>> with model.record_attention('stages.3.*') as record:
            ...     maps = model(torch.zeros(1, 3, 64, 100))
            >>> record['stages.3.blocks.1'].received().map.shape
            torch.Size([1, 24, 2, 4])
        """
        return record_attention(self.attention_layers(), layers, owner=type(self).__name__)

    def run(self, block: nn.Module, x: Tensor, *context: Any) -> Tensor:
        """``block(x, *context)``, recomputed in the backward pass where ``with_cp`` asks for it."""
        if self.with_cp and torch.is_grad_enabled() and (x.requires_grad or any_trainable(block)):
            return checkpoint(block, x, *context, use_reentrant=False)
        return block(x, *context)


def any_trainable(module: nn.Module) -> bool:
    """Whether some parameter of ``module`` takes a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


def _check_out_indices(out_indices: Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Non-negative, ascending indices, or a ValueError."""
    given = tuple(out_indices) if isinstance(out_indices, Iterable) else (out_indices,)
    if not all(isinstance(index, Integral) and not isinstance(index, bool) for index in given):
        raise ValueError(f'out_indices={out_indices!r} must be whole numbers of 0 to {num_stages - 1}')
    indices = tuple(index + num_stages if index < 0 else index for index in given)
    if not indices or any(not 0 <= index < num_stages for index in indices):
        raise ValueError(f'out_indices={given} must name at least one of 0 to {num_stages - 1}')
    if any(a >= b for a, b in zip(indices[:-1], indices[1:], strict=True)):
        raise ValueError(f'out_indices={given} must ascend: maps are returned fine to coarse')
    return indices
