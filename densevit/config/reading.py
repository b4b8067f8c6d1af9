"""Find and read a config, and merge ``--cfg-options`` into it."""

from __future__ import annotations

import os
import traceback
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from ..check.legacy import today_of_module
from ..errors import UserError, did_you_mean
from .mistakes import MODULE_CURE, check_config, runner_fields
from .safe_config import read_as_data
from .safe_parts import is_guarded, refuse_code

__all__ = ['configs_dir', 'find_config', 'load_config', 'read_config']


def configs_dir() -> Path:
    """The folder of the shipped configs: ``densevit/.mim/configs`` of a wheel, ``configs`` of a clone."""
    package = Path(__file__).resolve().parents[1]
    installed = package / '.mim' / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'


def find_config(path: str | Path) -> Path:
    """The config file that ``path`` means: a file, or the name of a shipped config from any folder.

    Raises:
        UserError: there is none; the message has the nearest name.
    """
    path = Path(os.path.expanduser(path))  # Path's own raises where there is no such user
    inside = Path(*path.parts[1:]) if path.parts[:1] == ('configs',) else path
    for candidate in (path, configs_dir() / inside):
        for file in (candidate, candidate.parent / f'{candidate.name}.py'):
            if os.path.isfile(file):  # Path's own raises where a name is too long
                return file
    if os.path.isdir(path):
        raise UserError(f'config {str(path)!r} is a folder; give one of the files in it.')
    beside = path.parent.glob('*.py') if os.path.isdir(path.parent) else ()
    shipped = configs_dir().glob('*.py')
    names = {file.stem: str(file) for file in (*shipped, *beside)}
    nearest = get_close_matches(path.stem, names, n=1)
    hint = f'; did you mean {names[nearest[0]]!r}?' if nearest else '.'
    raise UserError(f'config {str(path)!r} not found, neither here nor in {configs_dir()}{hint}')


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> Config:
    """Read a config, merge ``--cfg-options`` into it and check it.

    A config is a program, which this runs; within :func:`densevit.config.safe_parts.guard` it is read as data instead.

    Args:
        path: a file, or the name of a shipped config.
        overrides: dotted keys and their values. ``data_root`` reaches every path that begins with the
            config's own ``data_root``; mmengine would change the variable alone, which nothing reads then.

    Raises:
        UserError: the file is not there or does not run; a key, a type or an argument in it is unknown;
            ``data_root`` reaches nothing.
    """
    cfg = read_config(path, overrides)
    check_config(cfg)
    return cfg


def read_config(path: str | Path, overrides: dict[str, Any] | None = None) -> Config:
    """As :func:`load_config`, but what is in the config is not checked."""
    file = find_config(path)
    if is_guarded():  # --safe-config
        cfg = read_as_data(file, configs_dir())
        refuse_code(cfg.to_dict(), file)
        if cfg.get('custom_imports'):  # of the packages that are known, as they were not refused
            import_modules_from_strings(**cfg.custom_imports)
    else:
        try:
            cfg = Config.fromfile(file)
            list(cfg.items())  # what a config in pure Python imports fails only when it is looked at
        except Exception as error:  # a config is a program: it can raise anything
            raise UserError(_why_it_does_not_run(file, error)) from error
    overrides = dict(overrides or {})
    known = {*cfg, *runner_fields()}
    for key in overrides:
        if key.partition('.')[0] not in known:
            raise UserError(
                f'--cfg-options {key!r}: the config has no {key.partition(".")[0]!r}'
                f'{did_you_mean(key.partition(".")[0], known) or "."}'
            )
    if 'data_root' in overrides:
        moved = _move_data(cfg, str(overrides['data_root']))
        cfg = Config(moved, cfg_text=cfg.text, filename=cfg.filename, env_variables=cfg.env_variables)
    for key, value in overrides.items():
        try:
            cfg.merge_from_dict({key: value})
        except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
            raise UserError(f'--cfg-options {key}={value!r} does not fit: {_first_line(error)}') from error
    return cfg


def _move_data(cfg: Config, new: str) -> dict:
    """The content of ``cfg`` with all that is below its ``data_root`` moved to ``new``."""
    content, old = cfg._cfg_dict.to_dict(), cfg.data_root
    moved = _replace_root(content, old, new) if old else content
    # The config's own variables may still be below it, where a child has given the datasets other places.
    read = runner_fields() & set(content)
    if new.rstrip('/') != str(old).rstrip('/') and all(moved[key] == content[key] for key in read):
        raise UserError(
            f'--cfg-options data_root={new}: no path in the config is below its data_root {old!r}, so this would '
            'change nothing; set the places that are read, such as train_dataloader.dataset.data_root.'
        )
    return moved


def _replace_root(value: Any, old: str, new: str) -> Any:
    """``value`` with every path at or below ``old`` moved to ``new``."""
    if isinstance(value, dict):
        return {key: _replace_root(item, old, new) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_replace_root(item, old, new) for item in value)
    if isinstance(value, str) and (value == old or value.startswith(old.rstrip('/') + '/')):
        return new.rstrip('/') + value[len(old.rstrip('/')) :]
    return value


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition('\n')[0] or type(error).__name__


def _why_it_does_not_run(file: Path, error: Exception) -> str:
    """One sentence with the file (the config or one of its bases) and, where there is one, the line."""
    frames = list(traceback.walk_tb(error.__traceback__))
    # mmengine parses a temporary copy, so a syntax error knows its line only; the names of the files that are
    # being read are local variables of its recursion.
    reading = [frame.f_locals.get('filename') for frame, _ in frames if frame.f_code.co_name == '_file2dict']
    reading = [os.path.abspath(name) for name in reading if name] or [str(file)]
    if isinstance(error, FileNotFoundError) and not Path(reading[-1]).exists() and len(reading) > 1:
        return f'config {reading[-2]!r} names a _base_ that does not exist: {reading[-1]!r}.'
    if isinstance(error, SyntaxError):
        return f'config {reading[-1]!r}, line {error.lineno}: {error.msg}: {(error.text or "").strip()!r}'
    lines = [line for frame, line in frames if os.path.abspath(frame.f_code.co_filename) == reading[-1]]
    where = f', line {lines[-1]}' if lines else ''
    while isinstance(error, ImportError) and isinstance(error.__cause__, ImportError):  # custom_imports
        error = error.__cause__
    reason = _first_line(error)
    cure = today_of_module(reason)
    if not cure and reason.startswith('Failed to import'):  # mmengine's, of custom_imports
        cure = f'; {MODULE_CURE}'
    return f'config {reading[-1]!r}{where}: {type(error).__name__}: {reason}{cure}'
