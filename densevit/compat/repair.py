"""Repair of mmdet and mmseg modules that were imported while mmcv had no operators.

Their modules guard imports at top level and bind a placeholder where an import fails: a function or class
that raises, None, or, in mmseg where the import is one of mmdet, another base class::

    try:
        from mmcv.ops import batched_nms
    except ImportError:
        def batched_nms(*args, **kwargs):
            raise RuntimeError(...)

One import has no guard (mmdet's ``roi_extractors/base_roi_extractor.py``): there ``import mmdet.models``
stops. The packages on the way to it vanish from ``sys.modules``; their finished submodules stay, with
placeholders.

Tried with onedl-mmdetection 3.5.1 and onedl-mmsegmentation 1.4.2: afterwards every name in every module is
bound as if ``import densevit`` had come first.
"""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ['repair_half_imported']

_PACKAGES = ('mmcv', 'mmdet', 'mmseg')  # in this order: each imports from those before it
_REMEDY = 'start Python anew with `import densevit` before the first import of mmdet or mmseg'


def repair_half_imported() -> None:
    """Bind the operators where placeholders are, and finish the imports that broke off.

    Warns, and says what to do, where that does not succeed. Does nothing where a compiled mmcv is loaded.
    """
    if 'mmcv._ext' in sys.modules:  # ours cannot be there yet
        return
    try:
        import_module('mmcv.ops')
    except Exception as error:  # for one, a compiled mmcv._ext that does not load into this torch
        reason = f'{type(error).__name__}: {error}'
        _warn(f"mmcv's operators cannot be imported ({reason})", 'install mmcv anew, for this torch')
        return
    for module in _imported_modules():
        for names in _guarded_imports(module):
            _run_again(names, module)
    _finish_packages()


def _imported_modules() -> list[ModuleType]:
    # None stands for an import that somebody has blocked
    loaded = {name: module for name, module in sys.modules.items() if module is not None}
    return [loaded[name] for name in sorted(loaded) if name.partition('.')[0] in _PACKAGES]


def _guarded_imports(module: ModuleType) -> Iterator[list[ast.ImportFrom]]:
    """The ``from mm... import ...`` statements in each top-level ``try`` of a module."""
    loader = getattr(module.__spec__, 'loader', None)
    source = loader.get_source(module.__name__) if hasattr(loader, 'get_source') else None
    if source is None or '\ntry:' not in source:  # spares most of the parsing
        return
    for guard in ast.parse(source).body:
        if isinstance(guard, ast.Try):
            imports = [node for node in guard.body if isinstance(node, ast.ImportFrom)]
            # All of a body or nothing, as the guard itself does; relative imports go along.
            if any((node.module or '').partition('.')[0] in _PACKAGES for node in imports):
                yield imports


def _run_again(imports: list[ast.ImportFrom], module: ModuleType) -> None:
    """Repeat guarded imports, and where one now finds something else than is bound, put that in its place."""
    found = {'__name__': module.__name__, '__package__': module.__package__, '__spec__': module.__spec__}
    statements = ast.Module(list(imports), type_ignores=[])
    try:
        exec(compile(statements, f'<guarded imports of {module.__name__}>', 'exec', dont_inherit=True), found)
    except ImportError:
        return  # mmdet is absent, or this mmcv does not know the operator: the placeholder is right
    except Exception as error:
        _warn(f'the imports of {module.__name__} cannot be repeated ({type(error).__name__}: {error})')
        return
    for name in (alias.asname or alias.name for node in imports for alias in node.names):
        placeholder = vars(module).get(name)
        if placeholder is not found[name]:
            setattr(module, name, found[name])
            _replace(placeholder, found[name], module)


def _replace(placeholder: Any, real: Any, module: ModuleType) -> None:
    """Replace a placeholder of ``module`` where it was copied to, and as the base of classes."""
    if getattr(placeholder, '__module__', None) == module.__name__:
        # Defined for this purpose, so every copy goes. Plain modules only: a look into lazy ones loads them.
        for other in [other for other in sys.modules.values() if type(other) is ModuleType]:
            for name in [name for name, value in vars(other).items() if value is placeholder]:
                setattr(other, name, real)
    for heir in list(vars(module).values()):
        if isinstance(heir, type) and heir.__module__ == module.__name__ and placeholder in heir.__bases__:
            try:
                heir.__bases__ = tuple(real if base is placeholder else base for base in heir.__bases__)
            except TypeError as error:
                _warn(f'{heir.__module__}.{heir.__qualname__} cannot get its base {real.__name__} ({error})')


def _finish_packages() -> None:
    """Import the packages that vanished, and make the submodules that stayed attributes of them again."""
    names = {module.__name__ for module in _imported_modules()}
    packages = {name[:end] for name in names for end, letter in enumerate(name) if letter == '.'}
    for package in sorted(packages - names):
        try:
            import_module(package)
        except ImportError:
            pass  # it has another cause, which whoever imports the package again will be told
        except Exception as error:
            _warn(f'{package}, half imported, cannot be imported again ({type(error).__name__}: {error})')
    for module in _imported_modules():
        parent, _, child = module.__name__.rpartition('.')
        # Python binds a submodule to its package when it imports it, not when it finds it in sys.modules.
        if parent in sys.modules and child not in vars(sys.modules[parent]):
            setattr(sys.modules[parent], child, module)


def _warn(problem: str, remedy: str = _REMEDY) -> None:
    warnings.warn(f'densevit: {problem}; {remedy}.', stacklevel=2)
