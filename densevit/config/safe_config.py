"""Read a config of somebody else as data: ``--safe-config``.

A config of the mm packages is a Python program, which mmengine runs; one in YAML is read with PyYAML's full loader,
which runs what the file asks for, too. Here the text is interpreted (:mod:`.safe_values`), the bases are those that
are shipped or lie beside the config, and what comes out is looked through for names and places that would run code,
write elsewhere or call other machines when something is built from it (:mod:`.safe_parts`).

Templates and bases follow ``Config._file2dict`` of mmengine 0.10 (https://github.com/open-mmlab/mmengine), whose
helpers for merging are used: the result is the same.
"""

from __future__ import annotations

import ast
import json
import os
import re
import uuid
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config, ConfigDict

from ..errors import UserError
from .safe_values import Budget, assigned

__all__ = ['read_as_data']

_BASE = '_base_'
_BYTES = 300_000  # of a file
_FILES = 50  # a config and its bases
_RESERVED = ('filename', 'text', 'pretty_text', 'env_variables')


def read_as_data(file: Path, shipped: Path) -> Config:
    """Read a config and its bases; nothing in them runs.

    Args:
        file: .py, .json, .yaml or .yml.
        shipped: the folder of densevit's own configs.

    Returns:
        what ``Config.fromfile`` returns.

    Raises:
        UserError: something in it is more than a value, or too much; with file and line.
    """
    reader = _Reader([file.resolve().parent, shipped.resolve(), *_installed()])
    try:
        content, text, variables = reader.read(Path(os.path.abspath(file)), ())
    except RecursionError as error:
        raise UserError(f'config {str(file)!r}: values are nested too deep for --safe-config.') from error
    for key in _RESERVED:
        if key in content:
            raise UserError(f'config {str(file)!r}: the key {key!r} is reserved; give it another name.')
    return Config(content, cfg_text=text, filename=str(file), env_variables=variables)


def _installed() -> list[Path]:
    """The configs that mmsegmentation and mmdetection have in their installed packages."""
    specs = [find_spec(package) for package in ('mmseg', 'mmdet')]
    return [(Path(spec.origin).parent / '.mim' / 'configs').resolve() for spec in specs if spec and spec.origin]


class _Reader:
    def __init__(self, allowed: Sequence[Path]) -> None:
        self.allowed = allowed
        self.budget = Budget()
        self.files = 0

    def read(self, file: Path, chain: tuple[Path, ...]) -> tuple[dict, str, dict[str, str]]:
        """Content, text and environment variables of a file and its bases, of which ``chain`` led here."""
        self.files += 1
        if file in chain or self.files > _FILES:
            raise UserError(f'config {str(file)!r}: its bases lead to itself, or are more than {_FILES}.')
        written = _written(file)
        try:
            text, variables = _with_variables(written, file)
            text, base_values = _with_base_names(text)
            parsed = _parsed(file, text)
            names = _bases(parsed, self.budget)
        except UserError as error:
            raise _in_file(file, error) from error
        bases, texts = ConfigDict(), []
        for name in names:
            content, base_text, base_variables = self.read(self._base(file, name), (*chain, file))
            texts.append(base_text)
            variables |= base_variables
            if both := bases.keys() & content.keys():
                raise UserError(f'config {str(file)!r}: {sorted(both)[0]!r} is in two of its bases.')
            bases.update(Config._dict_to_config_dict(content))
        try:
            content = parsed if isinstance(parsed, dict) else assigned(parsed, {_BASE: bases}, self.budget)
            content.pop('_deprecation_', None)
            self.budget.spend(content)  # before anything goes through it: it may hold itself
            self.budget.spend(bases)
            Config._parse_scope(content)
            content = Config._substitute_base_vars(content, base_values, bases)
            content.pop(_BASE, None)
            content = Config._merge_a_into_b(content, bases)
            self.budget.spend(content)
        except UserError as error:
            raise _in_file(file, error) from error
        except (KeyError, TypeError) as error:  # of mmengine's merging
            raise UserError(f'config {str(file)!r} does not fit its bases: {error}') from error
        texts.append(f'{file}\n{written}')
        return {key: value for key, value in content.items() if not key.startswith('__')}, '\n'.join(texts), variables

    def _base(self, file: Path, name: str) -> Path:
        """The file that a base's name means, if it may be read."""
        if '::' in name:
            raise UserError(
                f'config {str(file)!r}: --safe-config does not look for the base {name!r} in packages: give its path.'
            )
        try:
            path = (file.parent / name).resolve()
        except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a null byte
            raise UserError(f'config {str(file)!r}: there is no base {name!r}.') from error
        if not any(path.is_relative_to(folder) for folder in self.allowed):
            raise UserError(
                f'config {str(file)!r}: the base {name!r} is neither shipped with a package nor below '
                f'{str(self.allowed[0])!r}; put a copy there, or leave out --safe-config if you trust whoever wrote it.'
            )
        return path


def _in_file(file: Path, error: UserError) -> UserError:
    text = str(error)
    if text.startswith('config '):  # of a base
        return error
    where = ', ' if text.startswith('line ') else ': '
    return UserError(
        f'config {str(file)!r}{where}{text}; --safe-config reads values only: write the value itself there, or leave '
        'the option out if you trust whoever wrote the file.'
    )


def _written(file: Path) -> str:
    if not file.is_file():
        raise UserError(f'config {str(file)!r} does not exist.')
    if file.stat().st_size > _BYTES:
        raise UserError(f'config {str(file)!r} is larger than {_BYTES} bytes, which --safe-config does not read.')
    try:
        return file.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise UserError(f'config {str(file)!r} is no text in UTF-8.') from error


# ------------------------------------------------------------------------------------------------------- templates
def _with_variables(text: str, file: Path) -> tuple[str, dict[str, str]]:
    """Text with ``{{ fileBasename }}`` and the like, and ``{{$VARIABLE:default}}``, replaced."""
    known = {
        'fileDirname': str(file.parent),
        'fileBasename': file.name,
        'fileBasenameNoExtension': file.stem,
        'fileExtname': file.suffix,
    }
    for name, value in known.items():
        text = re.sub(rf'\{{\{{\s*{name}\s*\}}\}}', lambda _, value=value: value.replace('\\', '/'), text)
    found: dict[str, str] = {}

    def value_of(match: re.Match) -> str:
        name, default = match.groups()
        if name in os.environ:
            found[name] = os.environ[name]
        if not found.get(name, default):
            raise UserError(f'the environment variable {name!r} is not set and has no default')
        return found.get(name, default)

    return re.sub(r'\{\{[\'"]?\s*\$(\w+)\s*:\s*(\S*?)\s*[\'"]?\}\}', value_of, text), found


def _with_base_names(text: str) -> tuple[str, dict[str, str]]:
    """Text with ``{{_base_.name}}`` replaced by strings that stand for it, and what they stand for."""
    names: dict[str, str] = {}

    def stand_in(match: re.Match) -> str:
        key = f'_{match[1]}_{uuid.uuid4().hex}'
        names[key] = match[1]
        return f'"{key}"'

    return re.sub(rf'\{{\{{\s*{_BASE}\.([\w.]+)\s*\}}\}}', stand_in, text), names


# --------------------------------------------------------------------------------------------------------- content
def _parsed(file: Path, text: str) -> ast.Module | dict[str, Any]:
    """Syntax tree of Python, or the content of JSON or YAML."""
    try:
        if file.suffix == '.py':
            return ast.parse(text)
        if file.suffix == '.json':
            content = json.loads(text)
        elif file.suffix in ('.yaml', '.yml'):
            content = yaml.load(text, Loader=_Values)
        else:
            raise UserError('configs are .py, .json, .yaml or .yml files')
    except SyntaxError as error:
        raise UserError(f'line {error.lineno}: {error.msg}: {(error.text or "").strip()[:60]!r}') from error
    except (ValueError, yaml.YAMLError, MemoryError) as error:
        raise UserError(' '.join(str(error).split())[:200] or type(error).__name__) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError('it is no mapping of names to values')
    return content


class _Values(yaml.SafeLoader):
    """PyYAML's loader of values, without ``<<``, by which a short text becomes a long one while it is read."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == 'tag:yaml.org,2002:merge' for key, _ in node.value):
            raise yaml.YAMLError('"<<" is not read by --safe-config: write the keys themselves')


def _bases(parsed: ast.Module | dict[str, Any], budget: Budget) -> list[str]:
    """The names of the bases; their assignment is taken out of a syntax tree."""
    if isinstance(parsed, dict):
        names = parsed.get(_BASE, [])
    else:
        own = [
            each
            for each in parsed.body
            if isinstance(each, ast.Assign) and [ast.unparse(target) for target in each.targets] == [_BASE]
        ]
        parsed.body = [each for each in parsed.body if each not in own]
        names = assigned(ast.Module(own[:1], []), {}, budget).get(_BASE, [])
    names = names if isinstance(names, (list, tuple)) else [names]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f'{_BASE} is no list of names')
    return list(names)
