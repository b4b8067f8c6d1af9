"""Variables that a config sets anew in vain: its base has made its fields with the value of its own.

``_base_ = 'camvid.py'; data_root = '/data/mine'`` leaves every data set at the base's ``data_root``, since mmengine
merges the results of the files and not their text: the run would train on other data than the config seems to say.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from .finding import Finding

__all__ = ['find_lost_variables']

_CURES = {
    'data_root': (
        ', such as train_dataloader=dict(dataset=dict(data_root=data_root)), or leave it out and use --cfg-options '
        'data_root=PATH, which reaches all of them'
    ),
    'train_pipeline': ': train_dataloader=dict(dataset=dict(pipeline=train_pipeline))',
    'test_pipeline': ': val_dataloader=dict(dataset=dict(pipeline=test_pipeline)), and test_dataloader the same',
    'num_classes': ', such as model=dict(decode_head=dict(num_classes=num_classes))',
}


def find_lost_variables(cfg: Mapping[str, Any], file: str | None, fields: Collection[str]) -> Iterator[Finding]:
    """Variables of ``file`` that its bases use, that it gives another value, and that nothing of it reads.

    Args:
        cfg: what ``file`` comes to.
        fields: the keys of ``cfg`` that are read.
    """
    tree = _parse(Path(file)) if file else None
    if tree is None:
        return
    bases = list(_bases(tree, Path(file), {Path(file).resolve()}))
    made = {name: value for base in bases for name, value in _assigned(base).items()}
    used = {name for base in bases for name in _read(base)}
    read = _read(tree)
    content = [value for key, value in cfg.items() if key in fields]
    for name, value in _assigned(tree).items():
        if name in fields or name.startswith(('_', 'tta_')) or name not in used or name in read:
            continue
        if name not in made or ast.dump(value) == ast.dump(made[name]) or _occurs(cfg.get(name), content):
            continue
        message = (
            f'{name} is set here to no effect: the fields of the base were made with its own {name}, and nothing reads '
            f'this one; set the fields themselves{_CURES.get(name, "")}.'
        )
        yield Finding('error' if name == 'data_root' else 'warning', 'variable-in-vain', name, message)


def _parse(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_text(encoding='utf-8'))
    except (OSError, SyntaxError, ValueError, RecursionError):  # whoever runs it says so
        return None


def _assigned(tree: ast.Module) -> dict[str, ast.expr]:
    """The variables that a file sets at its top level, each with its last value."""
    return {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _read(tree: ast.Module) -> set[str]:
    """The variables that a file uses, also as ``{{_base_.name}}``."""
    nodes = list(ast.walk(tree))
    plain = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return plain | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def _bases(tree: ast.Module, file: Path, seen: set[Path]) -> Iterator[ast.Module]:
    """The files that a config builds on, and those that they build on; none of another package."""
    given = _assigned(tree).get('_base_')
    for node in ast.walk(given) if given is not None else ():
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith('.py')):
            continue
        path = (file.parent / node.value).resolve()
        base = _parse(path) if path not in seen and path.is_file() else None
        seen.add(path)
        if base is not None:
            yield from _bases(base, path, seen)
            yield base


def _occurs(value: Any, content: Any) -> bool:
    """Whether a value is somewhere in what is read, a path also as the beginning of others."""
    if type(value) is type(content) and value == content:
        return True
    if isinstance(content, Mapping):
        return any(_occurs(value, each) for each in content.values())
    if isinstance(content, (list, tuple)):
        return any(_occurs(value, each) for each in content)
    return isinstance(value, str) and isinstance(content, str) and content.startswith(value.rstrip('/') + '/')
