"""The values that a config's Python text stands for, without running it.

An interpreter for what plain configs are made of: literals, names, ``dict(...)``, indexing, arithmetic, comprehensions
and a few functions of values. Everything else has no meaning here, so there is nothing to escape from. What it makes
is counted while it is made, so that a short text cannot fill the memory or never end.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from mmengine.config import ConfigDict

from ..errors import UserError

__all__ = ['Budget', 'assigned']

_VALUES = 200_000  # of a config and its bases together; the largest that is shipped needs a twentieth
_DEEP = 60  # values in values
_BITS = 1024  # of a whole number
_OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}


class Budget:
    """How much a config and all its bases may hold, counted where something is put into something."""

    def __init__(self, values: int = _VALUES) -> None:
        self.left = values

    def spend(self, value: Any, depth: int = 0) -> None:
        """Count a value and all in it, what is in it twice twice.

        Raises:
            UserError: it is too much, too deep, or no data.
        """
        self.left -= 1
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            self.left -= (len(value) if isinstance(value, str) else value.bit_length()) // 64
        if self.left < 0:
            raise UserError(f'it holds more than {_VALUES} values')
        if isinstance(value, dict):
            inner: Iterable = (each for pair in dict.items(value) for each in pair)
        elif isinstance(value, (list, tuple, set)):
            inner = value
        elif value is None or isinstance(value, (str, int, float)):
            inner = ()
        else:
            raise UserError(f'a {type(value).__name__} is no value of a config')
        if depth > _DEEP:
            raise UserError(f'values are nested more than {_DEEP} deep')
        for each in inner:
            self.spend(each, depth + 1)


def assigned(module: ast.Module, given: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """What the assignments of a config come to.

    Args:
        module: its parsed text.
        given: names that it may use from the start.
        budget: is spent.

    Raises:
        UserError: something in it is more than a value; the message begins with ``line N: ``.
    """
    reader = _Reader(dict(given), budget)
    for statement in module.body:
        reader.run(statement)
    return {name: value for name, value in reader.names.items() if name not in given}


class _Reader:
    def __init__(self, names: dict[str, Any], budget: Budget) -> None:
        self.names = names
        self.budget = budget
        self.depth = 0

    def run(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign(targets=targets, value=value) if all(isinstance(each, ast.Name) for each in targets):
                result = self.placed(value)
                self.names.update((each.id, result) for each in targets)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                self.names[name] = self.placed(value)
            case ast.Assign(targets=[ast.Attribute(value=owner, attr=name)], value=value):
                target, result = self.value(owner), self.placed(value)
                if not isinstance(target, ConfigDict):  # of a base: `_base_.model.neck = None`
                    _refuse(statement, f'{ast.unparse(owner)[:60]!r} is not of a base, so it has no attributes')
                target[name] = result
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=owner, attr='update'), args=[new], keywords=[])):
                target, content = self.value(owner), self.placed(new)
                if not isinstance(target, dict) or not isinstance(content, dict):
                    _refuse(statement, 'update() is for a dict, with a dict')
                target.update(content)
            case _:
                _refuse(
                    statement, f'{ast.unparse(statement).splitlines()[0][:60]!r} is a statement that does something'
                )

    def placed(self, node: ast.expr) -> Any:
        """A value that becomes part of the config or of another one, and is counted for that."""
        value = self.value(node)
        with _at(node):
            self.budget.spend(list(value) if isinstance(value, range) and self.count(len(value)) else value)
        return list(value) if isinstance(value, range) else value

    def count(self, number: int) -> bool:
        """Whether so many values may be there, asked before they are; making them is paid for, too."""
        if number > self.budget.left:
            raise UserError(f'it holds more than {_VALUES} values')
        self.budget.left -= number // 16
        return True

    def value(self, node: ast.expr) -> Any:
        self.depth += 1
        if self.depth > _DEEP:
            _refuse(node, f'values are nested more than {_DEEP} deep')
        try:
            with _at(node):
                self.budget.spend(None)
                return self._value(node)
        finally:
            self.depth -= 1

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, (str, int, float)):
                return value
            case ast.Name(id=name):
                if name not in self.names:
                    _refuse(node, f'there is no value {name!r}')
                return self.names[name]
            case ast.List(elts=elements):
                return list(self._elements(elements))
            case ast.Tuple(elts=elements):
                return tuple(self._elements(elements))
            case ast.Set(elts=elements):
                return set(self._elements(elements))
            case ast.Dict(keys=keys, values=values):
                result: dict = {}
                for key, value in zip(keys, values):
                    result.update(self._mapping(value) if key is None else {self.placed(key): self.placed(value)})
                return result
            case ast.JoinedStr(values=parts):
                return ''.join(self._text(part) for part in parts)
            case ast.UnaryOp(op=kind, operand=operand) if type(kind) in _OPERATORS:
                return _OPERATORS[type(kind)](self.value(operand))
            case ast.BinOp(op=kind, left=left, right=right) if type(kind) in _OPERATORS:
                return self._combined(kind, self.value(left), self.value(right))
            case ast.Subscript(value=owner, slice=ast.Slice(lower=lower, upper=upper, step=step)):
                ends = [None if end is None else self.value(end) for end in (lower, upper, step)]
                whole = self.value(owner)
                self.count(len(whole))
                return whole[slice(*ends)]
            case ast.Subscript(value=owner, slice=place):
                return self.value(owner)[self.value(place)]
            case ast.Attribute(value=owner, attr=name):
                inner = self.value(owner)
                if isinstance(inner, ConfigDict) and name in inner:  # of a base: `_base_.model.neck`
                    return inner[name]
            case ast.ListComp(elt=element, generators=loops):
                return [self.placed(element) for _ in self._loops(loops)]
            case ast.GeneratorExp(elt=element, generators=loops):
                return [self.placed(element) for _ in self._loops(loops)]
            case ast.DictComp(key=key, value=value, generators=loops):
                return {self.placed(key): self.placed(value) for _ in self._loops(loops)}
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name not in self.names:
                return self._called(node, name, args, keywords)
        _refuse(node, f'{ast.unparse(node)[:60]!r} is more than a value')

    def _elements(self, nodes: list[ast.expr]) -> Iterator[Any]:
        for node in nodes:
            if isinstance(node, ast.Starred):
                yield from self._iterated(node, self.placed(node.value))
            else:
                yield self.placed(node)

    def _iterated(self, node: ast.AST, value: Any) -> Iterable[Any]:
        if not isinstance(value, (list, tuple, set, dict, range)):
            _refuse(node, f'{ast.unparse(node)[:60]!r}: a list, tuple or dict is needed')
        return value

    def _mapping(self, node: ast.expr) -> dict:
        value = self.placed(node)
        if not isinstance(value, dict):
            _refuse(node, f'{ast.unparse(node)[:60]!r} is no dict')
        return dict(dict.items(value))

    def _text(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=str() as text):
                return text
            case ast.FormattedValue(value=inner, conversion=-1, format_spec=None):
                value = self.value(inner)
                if isinstance(value, (str, int, float)):
                    return str(value)
        _refuse(node, f'{ast.unparse(node)[:60]!r}: here text and numbers are put into text as they are, no more')

    def _combined(self, kind: ast.operator, left: Any, right: Any) -> Any:
        """Arithmetic, of which the result's size is known before."""
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        sequences = (str, list, tuple)
        if isinstance(kind, ast.Mult) and not numbers:
            sequence, times = (left, right) if isinstance(left, sequences) else (right, left)
            if not isinstance(sequence, sequences) or not isinstance(times, int):
                raise UserError(f'{type(left).__name__} * {type(right).__name__} is not possible')
            self.count(len(sequence) * max(times, 0))
        elif isinstance(kind, ast.Add) and not numbers:
            if type(left) is not type(right) or not isinstance(left, sequences):
                raise UserError(f'{type(left).__name__} + {type(right).__name__} is not possible')
            self.count(len(left) + len(right))
        elif not numbers:
            raise UserError('this operation is for numbers')
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(abs(right), 1) if isinstance(kind, ast.Pow) else 0
            if max(bits, left.bit_length() + right.bit_length()) > _BITS:
                raise UserError(f'the number is larger than {_BITS} bits')
        return _OPERATORS[type(kind)](left, right)

    def _loops(self, loops: list[ast.comprehension]) -> Iterator[None]:
        """Go through a comprehension's loops, setting its names, and forget these at the end."""
        first, *others = loops
        if first.ifs or first.is_async:
            _refuse(first.target, 'a comprehension with a condition is more than a value')
        # the first source is read before the loop's names are there
        source = self._iterated(first.iter, self.value(first.iter))
        own = [each.id for each in ast.walk(first.target) if isinstance(each, ast.Name)]
        before = {name: self.names[name] for name in own if name in self.names}
        for item in source:
            self.budget.spend(None)
            self._bind(first.target, item)
            if others:
                yield from self._loops(others)
            else:
                yield
        for name in own:
            self.names.pop(name, None)
        self.names.update(before)

    def _bind(self, target: ast.expr, item: Any) -> None:
        match target:
            case ast.Name(id=name):
                self.names[name] = item
            case ast.Tuple(elts=elements) if isinstance(item, (list, tuple)) and len(item) == len(elements):
                for element, each in zip(elements, item):
                    self._bind(element, each)
            case _:
                _refuse(target, f'the loop cannot fill {ast.unparse(target)[:60]!r}')

    def _called(self, node: ast.expr, name: str, args: list[ast.expr], keywords: list[ast.keyword]) -> Any:
        if name == 'dict' and len(args) <= 1:
            result = {} if not args else dict(self.placed(args[0]))
            for each in keywords:
                result.update(self._mapping(each.value) if each.arg is None else {each.arg: self.placed(each.value)})
            return result
        if keywords or any(isinstance(each, ast.Starred) for each in args):
            _refuse(node, f'{ast.unparse(node)[:60]!r} is more than a value')
        values = [self.value(each) for each in args]
        match name, values:
            case 'list' | 'tuple' | 'enumerate', [source]:
                self.count(len(self._iterated(node, source)))
                return {'list': list, 'tuple': tuple, 'enumerate': lambda each: list(enumerate(each))}[name](source)
            case 'list' | 'tuple', []:
                return [] if name == 'list' else ()
            case 'range', _ if 1 <= len(values) <= 3 and all(isinstance(each, int) for each in values):
                return range(*values)
            case 'len', [source]:
                return len(source)
            case 'int' | 'float', [int() | float() as number]:
                return int(number) if name == 'int' else float(number)
            case 'sum', [source] if self.count(len(self._iterated(node, source))):
                if all(isinstance(each, (int, float)) for each in source):
                    return sum(source)
        _refuse(node, f'{ast.unparse(node)[:60]!r} calls what no value needs')


class _LocatedError(UserError):
    """Its message says the line already."""


def _refuse(node: ast.AST, why: str) -> NoReturn:
    raise _LocatedError(f'line {node.lineno}: {why}')


@contextmanager
def _at(node: ast.AST) -> Iterator[None]:
    """Say the line of what goes wrong while a value is made: a missing key, a division by zero, a budget."""
    try:
        yield
    except _LocatedError:
        raise
    except (UserError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        text = str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}'
        raise _LocatedError(f'line {node.lineno}: {text}') from error
