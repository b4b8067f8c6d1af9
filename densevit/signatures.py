"""Which arguments a class or function takes, read without calling it."""

from __future__ import annotations

import inspect
from collections.abc import Callable

__all__ = ['parameters']


def parameters(factory: Callable) -> tuple[dict[str, inspect.Parameter], bool]:
    """The arguments that ``factory`` takes by name, and whether its own signature lists them all.

    Where ``__init__`` has ``**kwargs``, those of its base classes are added: it usually hands them on.
    """
    owners = inspect.getmro(factory) if inspect.isclass(factory) else (factory,)
    functions = [owner.__dict__.get('__init__') if inspect.isclass(owner) else owner for owner in owners]
    found: dict[str, inspect.Parameter] = {}
    for count, function in enumerate(filter(None, functions)):
        try:
            signature = inspect.signature(function).parameters
        except ValueError:  # written in C
            return found, False
        found = {**signature, **found}
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in signature.values()):
            return found, count == 0
    return found, False
