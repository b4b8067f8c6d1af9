"""Which class each value or colour of the masks is, from a table of classes or without one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import UserError, did_you_mean
from .classes import VOID_NAMES, Class
from .masks import VOID, Seen, rgb

__all__ = ['Labels', 'name_labels']


@dataclass
class Labels:
    """Which class each value or colour is."""

    classes: list[Class]
    to_class: dict[int, int]  # from value or colour; VOID: of no class
    notes: list[str]


def name_labels(seen: Seen, table: Sequence[Class] | None, void: Sequence[str]) -> Labels:
    """Decide what is which class, from what the masks hold and the table that was given.

    Args:
        seen: the masks' content.
        table: the classes; None: every value or colour becomes one.
        void: names, values, or colours as ``r,g,b``, of pixels that are of no class.

    Raises:
        UserError: there is a value or colour that the table does not have, or no class is left.
    """
    notes: list[str] = []
    ignored = _void_keys(seen, table, void)
    named = {each.lower() for each in void}
    if table is None:
        labels = _unnamed(seen, ignored, notes)
    else:
        classes = [each for each in table if each.name.lower() not in (*VOID_NAMES, *named)]
        whole, classes = (list(table), classes) if classes else (list(table), list(table))
        labels = (_by_color if seen.colored else _by_value)(seen, whole, classes, ignored, notes)
    if not labels.classes:
        raise UserError('the masks hold nothing but what is void, so there is no class to learn.')
    if len(labels.classes) > VOID:
        raise UserError(
            f'the masks have {len(labels.classes)} different {"colours" if seen.colored else "values"}, more than '
            f'{VOID} classes: they may be numbered objects, depths or photos; give masks of classes.'
        )
    return labels


def _void_keys(seen: Seen, table: Sequence[Class] | None, void: Sequence[str]) -> set[int]:
    keys = set()
    names = {each.name.lower() for each in table or ()}
    for text in void:
        parts = text.replace('(', '').replace(')', '').split(',')
        if text.lower() in names:
            continue
        if not all(part.strip().isdecimal() for part in parts) or len(parts) != (3 if seen.colored else 1):
            what = "a colour as 'r,g,b'" if seen.colored else 'a value'
            raise UserError(
                f'--void {text!r} is neither {what} nor a name in --classes{did_you_mean(text, names) or "."}'
            )
        keys.add(sum(int(part) << shift for part, shift in zip(parts, (16, 8, 0))) if seen.colored else int(text))
    return keys


def _unnamed(seen: Seen, ignored: set[int], notes: list[str]) -> Labels:
    keys = [key for key in sorted(seen.counts) if key not in ignored]
    if not seen.colored and keys == [0, 255]:
        notes.append('values 0 and 255 are taken as background and foreground, two classes')
        pair = [Class('background', 0, (0, 0, 0)), Class('foreground', 255, (220, 20, 60))]
        return Labels(pair, {0: 0, 255: 1} | dict.fromkeys(ignored, VOID), notes)
    if not seen.colored:
        for value in {255, 65535} & set(keys):
            if len(keys) > 1:
                ignored = ignored | {value}
                keys.remove(value)
                notes.append(f'value {value} is taken as void: such pixels are not learned')
    classes = [
        Class('color_{}_{}_{}'.format(*rgb(key)), None, rgb(key))
        if seen.colored
        else Class(f'class_{key}', key, seen.palette.get(key))
        for key in keys
    ]
    notes.append('no names were given: classes are called after what is in the masks; name them with --classes')
    return Labels(classes, {key: place for place, key in enumerate(keys)} | dict.fromkeys(ignored, VOID), notes)


def _by_color(
    seen: Seen, table: Sequence[Class], classes: Sequence[Class], ignored: set[int], notes: list[str]
) -> Labels:
    if any(each.color is None for each in table):
        raise UserError(
            'the masks hold colours, but the table of --classes has none: write each class as "name r g b"; the masks '
            f'hold {_most(seen, seen.counts)}.'
        )
    to_class = dict.fromkeys(ignored, VOID)
    for each in table:
        red, green, blue = each.color
        to_class.setdefault(red << 16 | green << 8 | blue, classes.index(each) if each in classes else VOID)
    _refuse_unknown(seen, to_class, 'colours', "add them to it, or name them in --void as 'r,g,b'")
    return Labels(list(classes), to_class, notes)


def _by_value(
    seen: Seen, table: Sequence[Class], classes: Sequence[Class], ignored: set[int], notes: list[str]
) -> Labels:
    values = set(seen.counts) - ignored
    if all(each.value is None and each.color for each in table):  # the masks' palette says which value is which
        by_color = {color: value for value, color in seen.palette.items()}
        if {seen.palette.get(value) for value in values - {VOID}} <= {each.color for each in table}:
            valued = {each: Class(each.name, by_color.get(each.color), each.color) for each in table}
            free = iter(set(range(256)) - set(seen.palette))
            for each, new in valued.items():
                if new.value is None:  # a class that is in no mask
                    valued[each] = Class(new.name, next(free), new.color)
            table, classes = [valued[each] for each in table], [valued[each] for each in classes]
    if all(each.value is None for each in table):
        table, classes = _numbered(seen, table, classes, values, notes)
    elif any(each.value is None for each in table):
        raise UserError('--classes: some classes have a value and others have none; give all of them one.')
    to_class = dict.fromkeys(ignored, VOID)
    for each in table:
        to_class.setdefault(each.value, classes.index(each) if each in classes else VOID)
    for value in {255, 65535} & values - set(to_class):
        to_class[value] = VOID
        notes.append(f'value {value} is taken as void: such pixels are not learned')
    if 0 in values and 0 not in to_class:
        to_class[0] = VOID
        notes.append('value 0 has no class and is taken as void; to learn it, give it a name in --classes')
    _refuse_unknown(seen, to_class, 'values', 'add them to it, or name them in --void')
    return Labels(list(classes), to_class, notes)


def _numbered(
    seen: Seen, table: Sequence[Class], classes: Sequence[Class], values: set[int], notes: list[str]
) -> tuple[list[Class], list[Class]]:
    """A table of names alone, with the values that they stand for: from 0, from 1, or 0 and 255."""
    count = len(table)
    if values <= {0, 255} and 255 in values and count <= 2:
        names = list(table) if count == 2 else [Class('background', None, (0, 0, 0)), *table]
        notes.append(f'values 0 and 255 are taken as {names[0].name} and {names[1].name}')
        numbered = [Class(each.name, value, each.color) for each, value in zip(names, (0, 255))]
        return numbered, numbered
    first = int(max(values - {255, 65535}, default=0) == count)  # one more than there would be from 0
    if first:
        notes.append(f'values 1 to {count} are taken as the {count} classes')
    numbered = [
        Class(each.name, place, each.color or seen.palette.get(place)) for place, each in enumerate(table, first)
    ]
    names = {each.name for each in classes}
    return numbered, [each for each in numbered if each.name in names]


def _refuse_unknown(seen: Seen, known: dict[int, int], what: str, cure: str) -> None:
    unknown = [key for key in seen.counts if key not in known]
    if unknown:
        worst = max(unknown, key=lambda key: seen.counts[key])
        files = {file for key in unknown for file in seen.files[key]}
        raise UserError(
            f'{len(unknown)} {what} of the masks are not in the table of --classes: {_most(seen, unknown)}, in '
            f'{len(files)} of {len(seen.sizes)} masks, such as {seen.files[worst][0]!r}; {cure}.'
        )


def _most(seen: Seen, keys: Iterable[int]) -> str:
    """The commonest of them."""
    ordered = sorted(keys, key=lambda key: -seen.counts[key])
    total = sum(seen.counts.values())
    listed = ', '.join(f'{seen.text(key)} ({seen.counts[key] / total:.2%} of the pixels)' for key in ordered[:5])
    return listed + (f' and {len(ordered) - 5} more' if len(ordered) > 5 else '')
