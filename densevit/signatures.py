"""Which arguments a class or function takes, read without calling it."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

__all__ = ['misfit', 'parameters']


def parameters(factory: Callable) -> tuple[dict[str, inspect.Parameter], bool]:
    """The arguments that ``factory`` takes by name, and whether its own signature lists them all.

    Where ``__init__`` has ``**kwargs``, those of its base classes are added: it usually hands them on.
    """
    owners = inspect.getmro(factory) if inspect.isclass(factory) else (factory,)
    functions = [owner.__dict__.get('__init__') if inspect.isclass(owner) else owner for owner in owners]
    read = _arguments if inspect.isclass(factory) else _arguments.__wrapped__  # an object may have no hash
    found: dict[str, inspect.Parameter] = {}
    for count, function in enumerate(filter(None, functions)):
        try:
            signature = read(function)
        except ValueError:  # written in C
            return found, False
        found = {**signature, **found}
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in signature.values()):
            return found, count == 0
    return found, False


@cache
def _arguments(function: Callable) -> Mapping[str, inspect.Parameter]:
    """Read once: a config asks for the same classes again and again."""
    return inspect.signature(function).parameters


_NAMES = {int: 'a whole number', float: 'a number', bool: 'True or False'}
# A number or a truth value that quotation marks have made a text.
_LIKE_PYTHON = re.compile(r'True|False|None|[-+]?\d*\.?\d+(e[-+]?\d+)?', re.IGNORECASE)


def misfit(value: Any, factory: Callable, name: str) -> str | None:
    """What ``factory`` wants for its argument ``name``, in words, where that is a number and ``value`` a text.

    ``lr='6e-5'`` is found so, by the annotation or, where that allows more or there is none, by the default. Other
    values pass: mm's annotations are narrower than what the code takes.
    """
    if not isinstance(value, str):
        return None
    expected = _plain_types(factory).get(name)
    if not expected and _LIKE_PYTHON.fullmatch(value):
        argument = parameters(factory)[0].get(name)
        kind = type(argument.default) if argument else None
        expected = {kind} if kind in _NAMES else None
    return ' or '.join(_NAMES[kind] for kind in _NAMES if kind in expected) if expected else None


@cache
def _plain_types(factory: Callable) -> dict[str, frozenset[type]]:
    """The arguments whose annotation names numbers and truth values only."""
    found: dict[str, frozenset[type]] = {}
    owners = inspect.getmro(factory) if inspect.isclass(factory) else (factory,)
    for owner in owners:
        function = owner.__dict__.get('__init__') if inspect.isclass(owner) else owner
        try:
            hints = typing.get_type_hints(function)
        except Exception:  # names that exist for type checkers only, or no Python function
            continue
        for name, hint in hints.items():
            united = typing.get_origin(hint) in (typing.Union, types.UnionType)
            kinds = frozenset(typing.get_args(hint) if united else (hint,)) - {type(None)}
            if name not in found and kinds and all(kind in _NAMES for kind in kinds):
                found[name] = kinds
    return found
