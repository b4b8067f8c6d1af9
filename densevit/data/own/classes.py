"""Tables of classes, in the forms that label tools and data sets write them.

A line per class, as text or CSV, with or without a line of headings::

    road                          names alone, counted from 0
    7 road                        the value in the masks, and the name
    road 128 64 128               the colour in the masks, before or behind the name; commas, tabs or spaces between
    road:128,64,128::             CVAT's and Datumaro's labelmap.txt
    id,name,color                 headings: name, id, r, g, b, color
    7,road,#804080

or JSON: a list of names, of objects with ``name``, ``id`` and ``color``, or an object that has such a list under
``classes``, ``categories`` or ``labels``, as COCO's files and the ``classes.json`` of tools/predict.py.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError

__all__ = ['VOID_NAMES', 'Class', 'read_classes']

Color = tuple[int, int, int]

_MOST_BYTES = 10_000_000  # of a table; 1000 classes take 30 kB
_LONGEST = 500  # characters of a line
# Names that say of themselves that they are no class.
VOID_NAMES = ('void', 'ignore', 'ignored', 'unlabeled', 'unlabelled', 'unknown', 'dontcare')

_HEADINGS = {
    'name': ('name', 'label', 'class', 'category', 'title'),
    'value': ('id', 'value', 'index', 'class_id', 'pixel'),
    'color': ('color', 'colour', 'rgb', 'hex'),
    'r': ('r', 'red'),
    'g': ('g', 'green'),
    'b': ('b', 'blue'),
}


@dataclass(frozen=True)
class Class:
    """A class of a table.

    Args:
        name: its name.
        value: the value that its pixels have in the masks; None: its place in the table.
        color: the colour of its pixels in the masks, RGB, and in pictures.
    """

    name: str
    value: int | None = None
    color: Color | None = None


def read_classes(given: Sequence[str]) -> list[Class]:
    """The classes that ``--classes`` gives: names, or one file.

    Raises:
        UserError: the file cannot be read, or a name, value or colour stands there twice.
    """
    path = Path(os.path.expanduser(given[0]))
    if len(given) > 1 or not (os.path.isfile(path) or path.suffix in ('.txt', '.csv', '.json')):
        classes = [Class(name) for name in given]
    else:
        try:
            if not path.is_file() or path.stat().st_size > _MOST_BYTES:
                raise OSError(f'it is no file, or larger than {_MOST_BYTES} bytes')
            text = path.read_text(encoding='utf-8-sig')
            if '\0' in text:  # Python 3.10's csv module does not take it
                raise OSError('it is no text')
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'--classes {str(path)!r} cannot be read: {error}.') from error
        classes = _from_json(path, text) if path.suffix == '.json' else _from_lines(path, text)
    if not classes:
        raise UserError(f'--classes {str(path)!r} has no class in it; expected a name per line, see docs/own_data.md.')
    for what in ('name', 'value', 'color'):
        seen = [getattr(each, what) for each in classes if getattr(each, what) is not None]
        if twice := [each for each, count in Counter(seen).items() if count > 1]:
            raise UserError(f'--classes: the {what} {twice[0]!r} stands there twice; give every class one of its own.')
    return classes


def _from_lines(path: Path, text: str) -> list[Class]:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(('#', '//'))]
    if not lines:
        return []
    columns = _columns(lines[0]) if len(lines[0]) <= _LONGEST else {}
    found = []
    for line in lines[1:] if columns else lines:
        try:
            if len(line) > _LONGEST:  # the patterns below would try all ways to divide it
                raise ValueError(line)
            each = _from_row(_cells(line), columns) if columns else _from_line(line)
        except (ValueError, IndexError, csv.Error) as error:
            raise UserError(
                f'--classes {str(path)!r}: the line {line!r:.100} is none that is known: a name, or with the colour '
                '"road 128 64 128", or with the value "7 road"; see docs/own_data.md.'
            ) from error
        found.append(each)
    return found


def _cells(line: str) -> list[str]:
    separator = next((mark for mark in (';', '\t', ',') if mark in line), None)
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))] if separator else line.split()


def _columns(line: str) -> dict[str, int]:
    """Which column is what, if a line has headings."""
    cells = [cell.lower() for cell in _cells(line)]
    columns = {what: cells.index(name) for what, names in _HEADINGS.items() for name in names if name in cells}
    return columns if 'name' in columns and len(columns) > 1 and len(columns) == len(cells) else {}


def _from_row(cells: list[str], columns: dict[str, int]) -> Class:
    color = None
    if 'r' in columns:
        color = _color([cells[columns[each]] for each in 'rgb'])
    elif 'color' in columns:
        color = _color(cells[columns['color']])
    return Class(cells[columns['name']], int(cells[columns['value']]) if 'value' in columns else None, color)


def _from_line(line: str) -> Class:
    if found := re.fullmatch(r'([^:]+):(\d+),(\d+),(\d+):.*', line):  # CVAT
        return Class(found[1].strip(), None, _color(found.groups()[1:]))
    number = r'\d{1,3}'
    apart = r'[\s,;]+'
    if found := re.fullmatch(rf'({number}){apart}({number}){apart}({number}){apart}(.*\D.*)', line):
        return Class(found[4].strip(), None, _color(found.groups()[:3]))
    if found := re.fullmatch(
        rf'(?:(\d+)\s*[,;:\t ]\s*)?(.*\D.*?){apart}({number}){apart}({number}){apart}({number})', line
    ):
        return Class(found[2].strip(' ,;:\t'), int(found[1]) if found[1] else None, _color(found.groups()[2:]))
    if found := re.fullmatch(r'(\d+)\s*[,;:\t ]\s*(.*\D.*)', line):
        return Class(found[2].strip(), int(found[1]))
    if re.search(r'[\t;]', line):
        raise ValueError(line)
    return Class(line)


def _color(given: Any) -> Color:
    if isinstance(given, str):
        if found := re.fullmatch(r'#?([0-9a-fA-F]{6})', given.strip()):
            given = bytes.fromhex(found[1])
        else:
            given = re.findall(r'\d+', given)
    numbers = tuple(int(each) for each in given)[:3]
    if len(numbers) < 3 or not all(0 <= each <= 255 for each in numbers):
        raise ValueError(f'{given!r} is no colour')
    return numbers


def _from_json(path: Path, text: str) -> list[Class]:
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            content = next((content[key] for key in ('classes', 'categories', 'labels') if key in content), content)
        if isinstance(content, dict):  # name: colour, or value: name
            content = [
                dict(name=value, id=int(key)) if key.isdecimal() else dict(name=key, color=value)
                for key, value in content.items()
            ]
        return [_from_object(each) for each in content]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f'--classes {str(path)!r} is no list of names, or of objects with name, id and color: {error}.'
        ) from error


def _from_object(each: Any) -> Class:
    if isinstance(each, str):
        return Class(each)
    known = {what: each[name] for what, names in _HEADINGS.items() for name in names if name in each}
    value = known.get('value')
    color = known.get('color')
    return Class(str(known['name']), None if value is None else int(value), None if color is None else _color(color))
