"""What the values in label maps say about num_classes and reduce_zero_label."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .heads import VOID
from .text import first

__all__ = ['Reading', 'advice', 'suspicions']


@dataclass(frozen=True)
class Reading:
    """How a pixel value becomes a class in mmseg's ``LoadAnnotations``.

    Attributes:
        classes: names.
        reduce: ``reduce_zero_label``: 0 is void, 1 the first class.
        void: the labels that the losses ignore.
        label_map: from a class of the original data set to one of these.
    """

    classes: tuple[str, ...]
    reduce: bool
    void: frozenset[int]
    label_map: Mapping[int, int]

    def trained(self, value: int) -> int:
        """The class of a pixel value; mmseg keeps its lowest 8 bits."""
        value &= 255
        if self.reduce:
            value = VOID if value in (0, VOID) else value - 1
        return self.label_map.get(value, value)

    def outside(self, value: int) -> bool:
        """Whether a value is neither void nor one of the classes."""
        if value not in (-1, 65535) and not 0 <= value <= 255:
            return True  # which class its lowest 8 bits are is an accident
        trained = self.trained(value)
        return trained not in self.void and not 0 <= trained < len(self.classes)


def advice(pixels: Mapping[int, int], reading: Reading, names: Collection[str] = ()) -> str:
    """What to do about values that are outside the classes.

    Args:
        pixels: value to number of pixels.
        names: of label files that hold such values.
    """
    count = len(reading.classes)
    outside = {value: number for value, number in pixels.items() if reading.outside(value)}
    if all(value in (-1, 65535) or value <= reading.trained(value) == VOID for value in outside):
        return (
            f'{VOID} is what loaders and crops write for void: leave ignore_index of the heads out ({VOID}), or write '
            f'{min(reading.void)} into such pixels'
        )
    present = sorted(
        value for value in pixels if value not in (-1, VOID, 65535) and (value in outside or value not in reading.void)
    )
    top = present[-1]
    total = sum(pixels.values())
    if step := _stretched(sorted(pixels), count):
        return (
            f'the values {first(sorted(pixels), 8)} look like class numbers that were stretched to grey values: divide '
            f'them by {step}'
        )
    if top <= 33 and any('labelIds' in name for name in names):
        return "these are Cityscapes' raw ids: take the files ..._labelTrainIds.png (seg_map_suffix)"
    if top > 255:
        return f'label maps are read as 8 bits: write at most {VOID} classes, and {VOID} for void'
    rest = f'or write {VOID} into such pixels'
    if not reading.reduce and top == count:
        if present[0] > 0:
            return (
                f'the labels begin at 1, so set reduce_zero_label=True of the dataset (1 to {top} are then the '
                f'{count} classes)'
            )
        return (
            f'did you forget reduce_zero_label=True (0, {pixels.get(0, 0) / total:.0%} of the pixels, ignored, 1 to '
            f'{top} are the classes)? Where 0 is a class of its own, such as the background, give it a name in '
            f'metainfo.classes and set num_classes={count + 1}'
        )
    if len(present) > 1 and present[-2] < count + reading.reduce:
        rest += f' where {top} stands for void'
    if reading.reduce:
        return f'give dataset and num_classes {top} classes, {rest}'
    rare = sum(outside.values())
    if rare < total / 1000 and len(present) > 1 and present[-2] < count:
        rest += f' ({rare / total:.2%} of the pixels: most likely a slip of the annotators)'
    return (
        f'give dataset and num_classes {top + 1} classes ({top} with reduce_zero_label=True, where 0 is no class), '
        f'{rest}'
    )


def _stretched(values: list[int], count: int) -> int:
    """The step between values that are spread evenly over grey values, or 0."""
    gaps = [high - low for low, high in zip(values, values[1:])]
    even = len(gaps) > 0 and values[0] == 0 and min(gaps) > 1 and max(gaps) - min(gaps) <= 1
    return round(values[-1] / len(gaps)) if even and len(values) <= count + 1 and values[-1] <= 255 else 0


def suspicions(pixels: Mapping[int, int], reading: Reading) -> list[tuple[str, str]]:
    """Kinds and messages of what values mean that are allowed, but hardly meant so.

    Args:
        pixels: value to number of pixels, of all files that were looked at.
    """
    found = []
    total = sum(pixels.values())
    classes = reading.classes
    trained = {reading.trained(value) for value in pixels} - reading.void
    if set(pixels) == {0, VOID} and VOID in reading.void and not reading.reduce and len(classes) > 1:
        found.append(
            (
                'mask-binary-255',
                f'the labels hold only 0 and {VOID}, and {VOID} is ignored, so that {classes[0]!r} alone would be '
                f'learnt: write 0 and 1 for two classes.',
            )
        )
    elif len(trained) == 1 and 0 <= min(trained) < len(classes) > 1:
        found.append(
            (
                'one-class',
                f'all labelled pixels are {classes[min(trained)]!r}, one of {len(classes)} classes (values: '
                f'{first(sorted(pixels), 8)}): nothing can be learnt; were the masks written with the class numbers?',
            )
        )
    zero = pixels.get(0, 0) / total if total else 0
    last = len(classes) - 1
    if reading.reduce and zero and not reading.label_map and len(classes) > 1 and trained == set(range(last)):
        found.append(
            (
                'reduce-zero-label',
                f'reduce_zero_label=True ignores the value 0, {zero:.0%} of the pixels, and then the last class, '
                f'{classes[last]!r}, never occurs: the values 0 to {last} are as many as the classes; did you mean '
                'reduce_zero_label=False?',
            )
        )
    return found
