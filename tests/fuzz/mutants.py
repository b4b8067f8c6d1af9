"""Strategies for what was right once: trees of dicts and lists, and files, with a few places changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

# What stands in files of others where a number, a name or a list should be.
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 3, 255, 2**31, -(2**63), 10**30, 0.5, -0.0, 1e308, math.nan, math.inf, -math.inf,
    '', ' ', 'x', '0', '1e3', 'nan',
    '\x00', '\n', 'ä\u202e', '\ud800', '\x1b[2J', '../..', '/', '~', 'a' * 5000,
    '~nobody-of-this-name/a', '%s{0}',
    [], {}, [None], [[]], [[[[]]]], [0, 'x'], {'': {}}, {'type': None}, {'type': ''}, {'type': 'ResNet'}, {'id': []},
    [math.nan] * 4, [1e30] * 4, 'type', '__class__',
]  # fmt: skip
_TREE = ('replace', 'replace', 'replace', 'delete', 'rename', 'copy', 'wrap', 'repeat', 'insert')
_BYTES = ('flip', 'flip', 'set', 'set', 'cut', 'delete', 'repeat', 'number', 'head', 'swap')
# What headers hold as sizes and offsets, of every width and byte order.
_NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 30_000, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


def _changes(kinds: Sequence[str], values: st.SearchStrategy, most: int) -> st.SearchStrategy:
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 2**32), values), min_size=1, max_size=most)


def mutated_tree(tree: Any, most: int = 3, odd: Sequence[Any] = tuple(ODD)) -> st.SearchStrategy:
    """Copies of a tree of dicts and lists with up to ``most`` changes."""
    return _changes(_TREE, st.sampled_from(list(odd)), most).map(lambda changes: change_tree(tree, changes))


def change_tree(tree: Any, changes: Sequence[tuple[str, int, Any]]) -> Any:
    """A copy of a tree with some nodes changed: what, the node's number, a value."""
    root = [copy.deepcopy(tree)]
    for kind, number, value in changes:
        value = copy.deepcopy(value)
        places = list(_places(root))
        owner, key = places[number % len(places)]
        node = owner[key]
        if kind == 'replace':
            owner[key] = value
        elif kind == 'delete' and owner is not root:
            del owner[key]
        elif kind == 'rename' and isinstance(owner, dict):
            name = value if isinstance(value, str) and number % 2 else f'{key}'[:-1] + 'x'
            owner[name] = owner.pop(key)
        elif kind == 'copy':  # of another place of the tree
            other, name = places[number // 7 % len(places)]
            owner[key] = copy.deepcopy(other[name])
        elif kind == 'wrap':
            owner[key] = [node] if number % 2 else {'a': node}
        elif kind == 'repeat' and isinstance(owner, list) and owner is not root:
            owner += [copy.deepcopy(node) for _ in range(2)]
        elif kind == 'insert' and isinstance(node, dict):
            node[value if isinstance(value, str) else 'extra'] = value
    return root[0]


def _places(owner: Any) -> Any:
    for key in list(owner) if isinstance(owner, dict) else range(len(owner)):
        yield owner, key
        if isinstance(owner[key], (dict, list)):
            yield from _places(owner[key])


def mutated_bytes(content: bytes, most: int = 6) -> st.SearchStrategy:
    """Copies of a file's content with up to ``most`` changes."""
    return _changes(_BYTES, st.integers(0, 255), most).map(lambda changes: change_bytes(content, changes))


def mutated_file(files: Mapping[str, bytes]) -> st.SearchStrategy:
    """The name of one of some files, and its changed content."""
    return st.one_of([st.tuples(st.just(name), mutated_bytes(content)) for name, content in files.items()])


def change_bytes(content: bytes, changes: Sequence[tuple[str, int, int]]) -> bytes:
    """A copy of a content with some places changed: what, where, a value."""
    data = bytearray(content)
    for kind, number, value in changes:
        if not data:
            break
        # headers are worth more changes than pixels
        place = number % min(len(data), 64) if value % 2 else number // 3 % len(data)
        if kind == 'flip':
            data[place] ^= 1 << value % 8
        elif kind == 'set':
            data[place] = (0, 255, value, 0x80)[number % 4]
        elif kind == 'cut':
            del data[place:]
        elif kind == 'delete':
            del data[place : place + 1 + value % 16]
        elif kind == 'repeat':
            data[place:place] = data[place : place + value] * (1 + number % 3)
        elif kind == 'head':
            data[:0] = bytes([value]) * (1 + number % 4)
        elif kind == 'number':
            width, order = (1, 2, 4, 8)[number % 4], ('big', 'little')[number // 4 % 2]
            chosen = _NUMBERS[value % len(_NUMBERS)] % 256**width
            data[place : place + width] = chosen.to_bytes(width, order)
        elif kind == 'swap':
            other = number // 11 % len(data)
            data[place], data[other] = data[other], data[place]
    return bytes(data)
