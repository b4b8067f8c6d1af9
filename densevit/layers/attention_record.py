"""What attention layers attend to, written down by the layers themselves while somebody asks for it.

An attention module that is a :class:`Recordable` has a place for a recorder. It is empty but inside
:func:`record_attention`. There the module also hands over its queries and keys, as an :class:`AttentionLayer`. Its
output stays the same to the last bit: the weights are computed beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
from torch import nn

from ..errors import did_you_mean
from .attention_layer import AttentionLayer, AttentionMap, Query

__all__ = ['AttentionRecord', 'Recordable', 'Recorder', 'record_attention']

Recorder: TypeAlias = Callable[[AttentionLayer], None]


class Recordable(nn.Module):
    """An attention module that can be asked what it attends to.

    Where ``recorder`` is not None, ``forward`` calls it with an :class:`AttentionLayer`, and computes all else as ever.
    """

    recorder: Recorder | None = None


class AttentionRecord(Mapping[str, AttentionLayer]):
    """The attention layers of the last forward pass, by name, in the order of the pass."""

    def __init__(self, known: Sequence[str]) -> None:
        self._known = tuple(known)
        self._layers: dict[str, AttentionLayer] = {}

    def keep(self, name: str, stride: int, layer: AttentionLayer) -> None:
        """Take a layer in; in the place of an earlier pass, or of the one that a backward pass recomputes."""
        layer.name, layer.stride = name, stride
        self._layers[name] = layer

    def __getitem__(self, name: str) -> AttentionLayer:
        if name not in self._layers:
            if not self._layers:
                raise KeyError('nothing is recorded: run the model inside the with statement')
            raise KeyError(f'no attention of {name!r} is recorded{did_you_mean(name, self._layers)}')
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._known if name in self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def stages(self) -> dict[str, list[AttentionLayer]]:
        """The layers by stage, ``'stages.2'`` or ``'pool'``."""
        found: dict[str, list[AttentionLayer]] = {}
        for name, layer in self.items():
            found.setdefault(name.partition('.blocks.')[0], []).append(layer)
        return found

    def rollout(self, stage: str, query: Query = None) -> AttentionMap:
        """Attention rollout through the blocks of one stage: which of its first tokens a last one is made of.

        The product of all layers' matrices 0.5 I + 0.5 A, where A is the mean over the heads and I stands for the
        residual connection: Abnar, Zuidema, "Quantifying Attention Flow in Transformers", section 3,
        https://arxiv.org/abs/2005.00928. It is multiplied from the left, as a row at a time is enough: the matrix of a
        whole image is never made. The padding of windows is new in every layer, so what goes there ends there.

        Args:
            stage: such as ``'stages.3'``.
            query: a token of the last block; by default the mean over all of the map.

        Returns:
            An :class:`AttentionMap` with one head.

        Raises:
            ValueError: rollout is not defined for the stage, or not all of its blocks are recorded.
        """
        layers = self.stages().get(stage)
        if layers is None:
            raise ValueError(f'stage={stage!r} is not recorded; recorded are {", ".join(self.stages()) or "none"}')
        missing = [name for name in self._known if name.startswith(f'{stage}.') and name not in self._layers]
        if missing:
            raise ValueError(f'the rollout of {stage} needs all of its blocks, and {missing[0]} is not recorded')
        for layer in layers:
            if not layer.is_square:
                raise ValueError(
                    f'no rollout is defined for {stage}: {layer.name} ({layer.kind}) looks at other tokens '
                    f'({_outline(layer.key_size, layer.num_extra_keys)}) than those that look '
                    f'({_outline(layer.query_size, layer.num_extra_queries)}), so one layer does not lead to the next'
                )
        flow, lost = layers[-1].mass_of(query), 0.0
        for layer in reversed(layers):
            keys, padding = layer.spread(flow)
            flow, lost = 0.5 * flow + 0.5 * keys.mean(dim=1), lost + 0.5 * padding.mean(dim=1)
        return layers[0].as_map(flow[:, None], lost[:, None])


def _outline(size: tuple[int, int] | None, extra: int) -> str:
    words = [f'{size[0]} x {size[1]}'] if size else []
    return ' and '.join(words + ([f'{extra} beside'] if extra else []))


@contextmanager
def record_attention(
    modules: Iterable[tuple[str, Recordable, int]], layers: str | Sequence[str] = '*', *, owner: str
) -> Iterator[AttentionRecord]:
    """Let attention modules record what they attend to.

    The record has the last forward pass that was run inside the ``with`` statement, and can be read behind it too.
    Gradients do not pass through it. A compiled model is compiled anew for it; one that is traced or exported meanwhile
    raises a RuntimeError.

    Args:
        modules: name, module and stride in pixels, in the order of the forward pass.
        layers: names, or patterns such as ``'stages.3.*'``, of what to record.
        owner: what the modules are part of, for messages.

    Raises:
        ValueError: there is no such layer, or it is being recorded already.
    """
    found = list(modules)
    names = [name for name, _, _ in found]
    if not found:
        raise ValueError(f'{owner} has no attention layer to record')
    patterns = (layers,) if isinstance(layers, str) else tuple(layers)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f'layers: {owner} has no attention layer {pattern!r}{did_you_mean(pattern, names) or "."} '
                f'It has {names[0]} to {names[-1]}.'
            )
    chosen = [each for each in found if any(fnmatchcase(each[0], pattern) for pattern in patterns)]
    busy = [name for name, module, _ in chosen if module.recorder is not None]
    if busy:
        raise ValueError(f'{owner} is being recorded already ({busy[0]}); end that recording first')
    record = AttentionRecord(names)
    try:
        for name, module, stride in chosen:
            module.recorder = _recorder(record, name, stride)
        yield record
    finally:
        for _, module, _ in chosen:
            module.__dict__.pop('recorder', None)


def _recorder(record: AttentionRecord, name: str, stride: int) -> Recorder:
    def keep(layer: AttentionLayer) -> None:
        if torch.jit.is_tracing() or torch.compiler.is_exporting() or torch._C._are_functorch_transforms_active():
            raise RuntimeError(
                f'{name}: the model is traced, exported or transformed while its attention is recorded, and has no '
                'numbers then; do that outside of record_attention()'
            )
        record.keep(name, stride, layer)

    return keep
