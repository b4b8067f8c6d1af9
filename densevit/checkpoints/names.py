"""Two namings of the same tensors as one table, read in both directions."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

__all__ = ['BACKBONE', 'CLASSIFIER', 'CLASS_ATTENTION', 'NameTable', 'of_backbone', 'reads_whole', 'writes_whole']

# What the names of a whole model's backbone begin with, in all the packages that have whole models, and here.
BACKBONE = 'backbone.'
# What the names of a densevit.ImageClassifier begin with beside them.
CLASSIFIER = ('pool.', 'head.')
# Of the head that a densevit segmentor or detector can have beside its own.
CLASS_ATTENTION = 'class_attention.'

_FIELD = re.compile(r'\{(2)?([a-z])(\+1)?\}|\*')
Conversion = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class NameTable:
    """Pairs of patterns, (theirs, ours), each for a whole name; the first that fits counts.

    ``{x}`` stands for a number, ``{x+1}`` for the one behind it, ``{2x}`` for twice the number, ``*`` for the rest of
    the name. A name that no pair fits stays as it is.

    Example:
        >>> table = NameTable(('layers.{s}.1.{b}.norm.*', 'block{s+1}.{b}.norm1.*'))
        >>> table.ours('layers.0.1.12.norm.bias'), table.theirs('block1.12.norm1.bias')
        ('block1.12.norm1.bias', 'layers.0.1.12.norm.bias')
    """

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self._pairs = [(_Pattern(theirs), _Pattern(ours)) for theirs, ours in pairs]

    def ours(self, name: str) -> str:
        """Our name of what they call ``name``."""
        return _translate(name, self._pairs)

    def theirs(self, name: str) -> str:
        """Their name of what we call ``name``."""
        return _translate(name, ((ours, theirs) for theirs, ours in self._pairs))

    def to_ours(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors by our names."""
        return {self.ours(name): tensor for name, tensor in tensors.items()}

    def to_theirs(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors by their names."""
        return {self.theirs(name): tensor for name, tensor in tensors.items()}


class _Pattern:
    def __init__(self, text: str) -> None:
        self.text = text
        parts, end = [], 0
        self.steps: dict[str, tuple[int, int]] = {}  # {2x} and {x+1}: what the number is multiplied by, and added to
        for field in _FIELD.finditer(text):
            twice, key, ahead = field.groups()
            parts += [re.escape(text[end : field.start()]), f'(?P<{key}>[0-9]+)' if key else '(?P<rest>.+)']
            end = field.end()
            if key:
                self.steps[key] = (2 if twice else 1, 1 if ahead else 0)
        self.regex = re.compile(''.join(parts) + re.escape(text[end:]))

    def read(self, name: str) -> dict[str, int | str] | None:
        match = self.regex.fullmatch(name)
        if not match:
            return None
        values: dict[str, int | str] = match.groupdict()
        for key, (factor, offset) in self.steps.items():
            values[key], remainder = divmod(int(match[key]) - offset, factor)
            if remainder or values[key] < 0:
                return None
        return values

    def write(self, values: Mapping[str, int | str]) -> str:
        def text_of(field: re.Match) -> str:
            key = field[2]
            if not key:
                return str(values['rest'])
            factor, offset = self.steps[key]
            return str(factor * int(values[key]) + offset)

        return _FIELD.sub(text_of, self.text)


def _translate(name: str, pairs: Iterable[tuple[_Pattern, _Pattern]]) -> str:
    for here, there in pairs:
        values = here.read(name)
        if values is not None:
            return there.write(values)
    return name


def of_backbone(names: Iterable[str]) -> set[str]:
    """The names without ``backbone.``, so that a recogniser need not ask whether a backbone is alone."""
    return {name.removeprefix(BACKBONE) for name in names}


def reads_whole(convert: Conversion) -> Conversion:
    """Let a conversion to our names, of a classifier or a backbone alone, take a whole segmentor or detector too.

    Of that it gets the backbone, without ``backbone.``; the tensors beside it pass.
    """

    @functools.wraps(convert)
    def wrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        backbone = {name.removeprefix(BACKBONE): t for name, t in tensors.items() if name.startswith(BACKBONE)}
        if not backbone:
            return convert(tensors)
        return convert(backbone) | {name: t for name, t in tensors.items() if not name.startswith(BACKBONE)}

    return wrapped


def writes_whole(export: Conversion) -> Conversion:
    """The same for the way back: of a whole segmentor or detector it gets the backbone, whose prefix then returns."""

    @functools.wraps(export)
    def wrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        heads = {name: t for name, t in tensors.items() if not name.startswith((BACKBONE, *CLASSIFIER))}
        if not heads:
            return export(tensors)
        backbone = export({name: t for name, t in tensors.items() if name.startswith(BACKBONE)})
        return {BACKBONE + name: t for name, t in backbone.items()} | heads

    return wrapped
