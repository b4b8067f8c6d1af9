"""What one attention layer attended to: maps of its queries, computed from queries and keys when they are asked for.

All weights of an image at once can be large: of a map of 256 x 512 tokens that looks at 2,048 others those of one head
take a gigabyte. Queries and keys take a thirtieth of that, and one row of the weights, or their mean, little more than
a picture.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from .attention import attention_scores
from .windows import WindowLayout

__all__ = ['AttentionLayer', 'AttentionMap', 'GlobalAttention', 'Query', 'WindowedAttention']

# Whose attention is asked for: of a token of the map by its row and column, of one that stands before the map by its
# index (a class token, the query of a class), or None for the mean over all queries of the map.
Query: TypeAlias = tuple[int, int] | int | None

NUMBERS = 2**22  # weights that are computed at a time


class AttentionMap(NamedTuple):
    """Where attention goes. All that a query gives is one: ``map.sum((-2, -1)) + rest`` is 1 everywhere.

    Attributes:
        map: (B, h, H, W), over the map of the keys.
        rest: (B, h), what goes to keys that are no part of the map: a class token, or the padding of a window.
    """

    map: Tensor
    rest: Tensor


class AttentionLayer:
    """One attention layer in one forward pass.

    Attributes:
        name: of the layer, such as ``'stages.2.blocks.0'``.
        stride: pixels of the image per token of the queries' map.
        num_heads: h.
        query_size: H and W of the map whose tokens are queries; None where none are, as in learned aggregation.
        key_size: H and W of the map of the keys.
        key_step: tokens of the queries' map, or of the map itself where queries are no tokens, from one key to the
            next, down and right. The keys' map begins in the upper left corner of the other one.
        num_extra_queries, num_extra_keys: tokens before those of the map.
        is_square: whether queries and keys are the same tokens, so that attention can be followed from layer to layer.
        kind: in words.
    """

    name: str = ''
    stride: int = 1
    num_heads: int
    query_size: tuple[int, int] | None
    key_size: tuple[int, int]
    key_step: tuple[float, float] = (1.0, 1.0)
    num_extra_queries: int = 0
    num_extra_keys: int = 0
    is_square: bool
    kind: str

    def weights(self) -> Tensor:
        """All weights at once, after the softmax: each row, the last axis, sums to one."""
        raise NotImplementedError

    def spread(self, mass: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the queries' attention, each multiplied by its mass.

        Only what has mass is computed, some queries at a time.

        Args:
            mass: (B, Q), extra queries first, then those of the map row by row.

        Returns:
            (B, h, S), extra keys first, then those of the map; and (B, h), what goes to padding.
        """
        raise NotImplementedError

    def mass_of(self, query: Query) -> Tensor:
        """(1, Q): one for a single query, or the same for each query of the map.

        Raises:
            ValueError: there is no such query.
        """
        rows, columns = self.query_size or (0, 0)
        extra = self.num_extra_queries
        mass = self._zeros(1, extra + rows * columns)
        if query is None:
            some = slice(extra if rows * columns else 0, None)
            mass[:, some] = 1 / mass[:, some].shape[1]
        elif isinstance(query, int):
            if not 0 <= query < extra:
                raise ValueError(
                    f'query={query}: {self.name} has {extra} queries that are no tokens of the map'
                    + (f', 0 to {extra - 1}' if extra else '; give the row and the column of a token')
                )
            mass[:, query] = 1
        else:
            row, column = query
            if not (0 <= row < rows and 0 <= column < columns):
                raise ValueError(
                    f'query={(row, column)}: '
                    + (
                        f'the map of {self.name} has {rows} rows and {columns} columns of tokens'
                        if rows
                        else f'the queries of {self.name} are no tokens of a map; give an index below {extra}'
                    )
                )
            mass[:, extra + row * columns + column] = 1
        return mass

    def map_of(self, query: Query) -> AttentionMap:
        """What a query attends to."""
        return self.as_map(*self.spread(self.mass_of(query)))

    def received(self) -> AttentionMap:
        """What the queries attend to, in the mean over all tokens of the map, or over all queries if none are."""
        return self.map_of(None)

    def as_map(self, keys: Tensor, padding: Tensor) -> AttentionMap:
        """From what :meth:`spread` gives to a map and the rest."""
        extra, tokens = keys[..., : self.num_extra_keys], keys[..., self.num_extra_keys :]
        return AttentionMap(tokens.unflatten(-1, self.key_size), extra.sum(dim=-1) + padding)

    def token_at(self, y: float, x: float) -> tuple[int, int]:
        """Row and column of the query that stands for a pixel of the image.

        Raises:
            ValueError: no query is a token of the map.
        """
        if self.query_size is None:
            raise ValueError(f'the queries of {self.name} are no tokens of a map, so none stands for a pixel')
        row, column = (
            min(max(int(pixel // self.stride), 0), side - 1)
            for pixel, side in zip((y, x), self.query_size, strict=True)
        )
        return row, column

    @property
    def key_extent(self) -> tuple[float, float]:
        """Height and width, in pixels, of the part of the image that the map of the keys covers.

        From the upper left corner; more than the image where that was padded, less where a remainder was left out.
        """
        down, right = (side * step * self.stride for side, step in zip(self.key_size, self.key_step, strict=True))
        return down, right

    def _zeros(self, *shape: int) -> Tensor:
        raise NotImplementedError


class GlobalAttention(AttentionLayer):
    """Every query looks at every key.

    Args:
        q: queries (B, h, Q, d), extra ones first.
        k: keys (B, h, S, d), extra ones first.
        query_size, key_size, key_step, is_square, kind: see :class:`AttentionLayer`.
        scale: factor on q k^T, d ** -0.5 by default.
    """

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        *,
        query_size: tuple[int, int] | None,
        key_size: tuple[int, int],
        key_step: tuple[float, float] = (1.0, 1.0),
        scale: float | None = None,
        is_square: bool = False,
        kind: str,
    ) -> None:
        # copies: of a projection to queries, keys and values at once a view would keep the values too
        self.q, self.k = (each.detach().clone(memory_format=torch.contiguous_format) for each in (q, k))
        self.scale = scale
        self.num_heads = q.shape[1]
        self.query_size = None if query_size is None else (query_size[0], query_size[1])  # no torch.Size
        self.key_size, self.key_step = (key_size[0], key_size[1]), key_step
        rows, columns = query_size or (0, 0)
        self.num_extra_queries = q.shape[2] - rows * columns
        self.num_extra_keys = k.shape[2] - key_size[0] * key_size[1]
        self.is_square, self.kind = is_square, kind

    @torch.no_grad()
    def weights(self) -> Tensor:
        """(B, h, Q, S)."""
        return self._rows(slice(None))

    @torch.no_grad()
    def spread(self, mass: Tensor) -> tuple[Tensor, Tensor]:
        B, h, S, _ = self.k.shape
        mass = mass.expand(B, -1)
        found = self._zeros(B, h, S)
        with_mass = mass.any(dim=0).nonzero()[:, 0]
        for some in with_mass.split(max(1, NUMBERS // (B * h * S))):
            found += (mass[:, None, some, None] * self._rows(some)).sum(dim=2)  # (B, h, S)
        return found, self._zeros(B, h)

    def _rows(self, queries: slice | Tensor) -> Tensor:
        precise = torch.promote_types(self.q.dtype, torch.float32)
        with torch.autocast(self.q.device.type, enabled=False):
            return attention_scores(self.q[:, :, queries].to(precise), self.k.to(precise), scale=self.scale).softmax(
                dim=-1
            )

    def _zeros(self, *shape: int) -> Tensor:
        return self.q.new_zeros(shape, dtype=torch.promote_types(self.q.dtype, torch.float32))


class WindowedAttention(AttentionLayer):
    """Every token looks at the tokens of its window, and at the padding there.

    Args:
        qkv: queries and keys, with or without values behind them, (N, L, 2 or 3, h, d).
        layout: of the windows.
        size: B, H and W of the maps.
        bias: added to the scores of every window, (h, L, L).
        scale: factor on q k^T, d ** -0.5 by default.
    """

    is_square = True

    def __init__(
        self, qkv: Tensor, layout: WindowLayout, size: tuple[int, int, int], *, bias: Tensor, scale: float | None
    ) -> None:
        # (2, N, h, L, d)
        self.qk = qkv[:, :, :2].detach().permute(2, 0, 3, 1, 4).clone(memory_format=torch.contiguous_format)
        self.bias = bias.detach().clone()
        self.layout, self.scale, self.batch = layout, scale, size[0]
        self.num_heads = qkv.shape[-2]
        self.query_size = self.key_size = (size[1], size[2])
        self.kind = f'windows of {layout.side} x {layout.side}' + (', shifted' if layout.shift else '')

    @torch.no_grad()
    def weights(self) -> Tensor:
        """(N, h, L, L), in the order of the windows in ``layout``."""
        parts = self.layout.parts(self.qk.shape[1])
        return torch.cat([self._windows(self.qk[:, some], part.masks[0]) for some, part in parts])

    @torch.no_grad()
    def spread(self, mass: Tensor) -> tuple[Tensor, Tensor]:
        (H, W), (_, N, h, L, _) = self.key_size, self.qk.shape
        B = self.batch
        mass = self._cut(mass.expand(B, -1).view(B, H, W), padding=0)  # (N, L)
        found = self._zeros(N, h, L)
        for some, part in self.layout.parts(max(1, NUMBERS // (h * L * L))):
            with_mass = torch.arange(some.start, some.stop, device=mass.device)[mass[some].any(dim=1)]
            if len(with_mass):
                weights = self._windows(self.qk[:, with_mass], part.masks[0])
                found[with_mass] = (mass[with_mass][:, None, :, None] * weights).sum(dim=2)  # (N', h, L)
        is_padding = self._cut(self._zeros(B, H, W), padding=1)  # (N, L)
        lost = (found * is_padding[:, None]).sum(dim=2)  # (N, h)
        # a window has at least one token that is no padding, which tells its image
        numbers = torch.arange(B, device=mass.device, dtype=mass.dtype)[:, None, None].expand(B, H, W)
        image = self._cut(numbers, padding=-1).amax(dim=1).long()  # (N)
        padding = self._zeros(B, h).index_add_(0, image, lost)
        return self.layout.join(found.transpose(1, 2), (B, H, W)).flatten(1, 2).transpose(1, 2), padding

    def _cut(self, maps: Tensor, padding: float) -> Tensor:
        """(B, H, W) -> (N, L)."""
        return self.layout.cut(maps[..., None], padding=maps.new_full((1,), padding))[..., 0]

    def _windows(self, qk: Tensor, mask: Tensor | None) -> Tensor:
        precise = torch.promote_types(qk.dtype, torch.float32)
        bias = self.bias if mask is None else self.bias + mask
        with torch.autocast(qk.device.type, enabled=False):
            q, k = qk.to(precise)
            return attention_scores(q, k, bias=bias.to(precise), scale=self.scale).softmax(dim=-1)

    def _zeros(self, *shape: int) -> Tensor:
        return self.qk.new_zeros(shape, dtype=torch.promote_types(self.qk.dtype, torch.float32))
