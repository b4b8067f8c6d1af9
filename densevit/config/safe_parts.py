"""What a config that was read as data may name: parts of the packages, no code of others, no places outside.

mmengine builds what ``type`` names, and imports for it whatever dotted path stands there (``Registry.get``, by
``get_object_from_string``); mmcv evaluates the ``type`` of an ``nms`` as Python (``mmcv.ops.nms``); data sets read
pickles, from addresses too (``mmengine.load``). :func:`refuse_code` looks for these in the config, and within
:func:`guard` they are not possible, however a name gets there.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import PurePath
from typing import Any, NoReturn

import yaml
from mmengine.fileio.handlers import registry_utils
from mmengine.registry import registry as mmengine_registry

from ..errors import UserError

__all__ = ['guard', 'is_guarded', 'refuse_code']

# The packages whose registries may be asked.
_PACKAGES = ('densevit', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain')
# Parts of them that evaluate text, read pickles, or send to other machines.
_REFUSED = {
    'Albu': 'takes names of another package',
    'CameraMotionCompensation': 'evaluates text',
    'RFSearchHook': 'evaluates text',
    'OpenImagesDataset': 'reads pickles',
    'OpenImagesChallengeDataset': 'reads pickles',
    'LoadBiomedicalImageFromFile': 'reads pickles',
    'LoadBiomedicalAnnotation': 'reads pickles',
    'LoadBiomedicalData': 'reads pickles',
    'DumpResults': 'writes where it likes',
    'DumpDetResults': 'writes where it likes',
    'DumpProposals': 'writes where it likes',
    'DumpODVGResults': 'writes where it likes',
}
_KEPT_BACKENDS = ('LocalVisBackend', 'TensorboardVisBackend')
# Keys whose values are names that registries are asked for.
_NAMES = ('type', 'constructor', 'ema_type', 'runner_type', '_scope_', 'default_scope')
# Keys under which parts of the packages write.
_WRITTEN = re.compile(
    r'work_dir|log_dir|out_dir|save_dir|test_out_dir|output_dir|dump_path|result_path|out_file(_path)?|'
    r'(outfile|format|file)_prefix|experiment_name|exp_name|show_dir|folder|dir_name|json_trace_path'
)
_ADDRESS = re.compile(r'\s*[a-z][a-z0-9+.-]*://', re.IGNORECASE)
# Names in catalogues that the packages carry, and where they and the backbones' authors keep weights.
_KNOWN_ADDRESSES = (
    'open-mmlab://', 'torchvision://', 'mmcls://', 'https://download.openmmlab.com/', 'https://mmassets.onedl.ai/',
    'https://github.com/',
)  # fmt: skip

_guarded = False


def refuse_code(content: dict[str, Any], file: str | PurePath) -> None:
    """Look through a config for what would run code of others, write outside the work dir or call other machines.

    Raises:
        UserError: there is something; with its place in the config.
    """
    try:
        _refuse_code(content)
    except UserError as error:
        raise UserError(f'config {str(file)!r}: {error}') from error


def _refuse_code(content: dict[str, Any]) -> None:
    if imports := content.get('custom_imports'):
        names = imports.get('imports') if isinstance(imports, dict) else imports
        for name in names if isinstance(names, (list, tuple)) else [names]:
            if not isinstance(name, str) or name.partition('.')[0] not in _PACKAGES:
                _refuse('custom_imports', f'it would run {name!r}, which is in none of {", ".join(_PACKAGES)}')
    for path, key, value in _entries(content, ''):
        if isinstance(key, str) and not re.fullmatch(r'[^\'"\\\x00-\x1f]+', key):
            _refuse(path, 'a key with quotes or control characters could become code where the config is written down')
        if isinstance(value, str):
            _look_at(path, key, value)
        elif key in ('backend_args', 'file_client_args') and isinstance(value, dict):
            if value.get('backend', 'local') not in ('local', 'disk'):
                _refuse(path, 'it would read from another machine')


def _entries(value: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Place, key and value of all that is below."""
    pairs = dict.items(value) if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        place = f'{path}.{key}'.lstrip('.') if isinstance(value, dict) else f'{path}[{key}]'
        yield place, key, item
        if isinstance(item, (dict, list, tuple, set)):
            yield from _entries(item, place)


def _look_at(path: str, key: Any, value: str) -> None:
    if key in _NAMES:
        scope, _, name = value.rpartition('.')
        if not re.fullmatch(r'[A-Za-z_]\w*', name) or (scope and scope not in _PACKAGES):
            _refuse(path, f'{value!r} is no part of {", ".join(_PACKAGES)}, and naming it would import or evaluate it')
        if key in ('_scope_', 'default_scope') and name not in _PACKAGES:
            _refuse(path, f'{value!r} is none of the packages {", ".join(_PACKAGES)}')
        if name in _REFUSED:
            _refuse(path, f'{name} {_REFUSED[name]}')
        if hasattr(builtins, name):
            _refuse(path, f'{name!r} is a function of Python')
        if name.endswith('VisBackend') and name not in _KEPT_BACKENDS:
            _refuse(path, f'{name} would call other machines; ask for it on the command line')
    if key == 'mp_start_method' and value != 'fork':
        _refuse(path, 'processes that are not forked would not know of --safe-config')
    if _ADDRESS.match(value) and not value.startswith(_KNOWN_ADDRESSES):
        _refuse(path, f'{value[:80]!r} is an address; give weights with --load-from, and data from this machine')
    if isinstance(key, str) and _WRITTEN.fullmatch(key):
        parts = PurePath(value).parts
        if value.startswith(('/', '~', '\\')) or '..' in parts or ':' in value:
            _refuse(path, f'{value[:80]!r} would be written to, outside the work dir; use --work-dir')


def _refuse(path: str, why: str) -> NoReturn:
    raise UserError(
        f'{path}: {why}; --safe-config refuses it: take it out, or leave the option out if you trust whoever wrote '
        'the config.'
    )


# ----------------------------------------------------------------------------------------------------------- guard
def is_guarded() -> bool:
    """Whether :func:`guard` is on in this process."""
    return _guarded


@contextmanager
def guard() -> Iterator[None]:
    """Within it registries import nothing but the known packages, and ``mmengine.load`` reads no pickles.

    :func:`densevit.config.reading.load_config` then reads configs as data. Processes that are forked inherit it.
    """
    global _guarded

    class Handler(registry_utils.YamlHandler):
        def load_from_fileobj(self, file: Any, **_: Any) -> Any:
            return yaml.safe_load(file)

    class Refusing(registry_utils.PickleHandler):
        def load_from_fileobj(self, file: Any, **_: Any) -> NoReturn:
            raise UserError('a pickle is refused, since reading it could run code: --safe-config.')

        load_from_path = load_from_fileobj

    def imported(name: str, package: str | None = None) -> Any:
        if name.partition('.')[0] not in _PACKAGES:
            raise ImportError(f'--safe-config does not import {name!r}')
        return import_module(name, package)

    def looked_up(name: str) -> NoReturn:
        raise ImportError(f'--safe-config does not look up {name!r}')

    handlers = registry_utils.file_handlers
    before = _guarded, mmengine_registry.import_module, mmengine_registry.get_object_from_string, dict(handlers)
    _guarded = True
    mmengine_registry.import_module, mmengine_registry.get_object_from_string = imported, looked_up
    handlers.update(dict.fromkeys(('yaml', 'yml'), Handler()) | dict.fromkeys(('pkl', 'pickle'), Refusing()))
    try:
        yield
    finally:
        _guarded, mmengine_registry.import_module, mmengine_registry.get_object_from_string, old = before
        handlers.clear()
        handlers.update(old)
