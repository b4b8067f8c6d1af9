"""Find a mistake in a config before anything is built.

mmengine merges a misspelt key silently and learns of an unknown type or argument where it builds the part,
which for a hook or an evaluator may be hours later. Here every ``type`` is looked up in the registries and
every other key in the signature of what the type names; nothing is built.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmengine import registry as registries
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from torch.utils.data import DataLoader

from ..check.finding import Finding, raise_errors
from ..check.legacy import find_old_fields, today_of_argument, today_of_type
from ..check.variables import find_lost_variables
from ..errors import UserError, did_you_mean
from ..registry import PARTS, import_part
from ..signatures import misfit, parameters
from .safe_parts import is_guarded

__all__ = ['MODULE_CURE', 'check_config', 'find_mistakes', 'runner_fields']

# Keys that mmengine, or the part above, takes out of the dict before the class sees it.
_TAKEN_OUT = {
    'model': {'bg_cls_weight'},  # mmdet's DETRHead, out of its loss
    'optim_wrapper': {'constructor', 'paramwise_cfg'},
    'hook': {'priority'},
    'parameter scheduler': {'by_epoch', 'convert_to_iter_based', 'end'},
}
# The registry that a key of a config stands for; keys below it inherit it unless they are named here too.
_PLACES = {
    'model': registries.MODELS,
    'tta_model': registries.MODELS,
    'data_preprocessor': registries.MODELS,
    'init_cfg': registries.WEIGHT_INITIALIZERS,
    'dataset': registries.DATASETS,
    'datasets': registries.DATASETS,
    'pipeline': registries.TRANSFORMS,
    'tta_pipeline': registries.TRANSFORMS,
    'batch_sampler': registries.DATA_SAMPLERS,
    'collate_fn': registries.FUNCTIONS,
    'train_dataloader': registries.DATA_SAMPLERS,
    'val_dataloader': registries.DATA_SAMPLERS,
    'test_dataloader': registries.DATA_SAMPLERS,
    'val_evaluator': registries.METRICS,
    'test_evaluator': registries.METRICS,
    'default_hooks': registries.HOOKS,
    'custom_hooks': registries.HOOKS,
    'optim_wrapper': registries.OPTIM_WRAPPERS,
    'optimizer': registries.OPTIMIZERS,
    'param_scheduler': registries.PARAM_SCHEDULERS,
    'visualizer': registries.VISUALIZERS,
    'vis_backends': registries.VISBACKENDS,
    'log_processor': registries.LOG_PROCESSORS,
}
# What a field of the config may be; None leaves it out.
_SECTIONS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(
        (
            'model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg', 'test_cfg',
            'optim_wrapper', 'default_hooks', 'randomness', 'env_cfg', 'auto_scale_lr', 'data_preprocessor',
        ),
        (dict, type(None)),
    ),
    **dict.fromkeys(('param_scheduler', 'val_evaluator', 'test_evaluator'), (dict, list, tuple, type(None))),
    'custom_hooks': (list, tuple, type(None)),
    'default_scope': (str, type(None)),
}  # fmt: skip
MODULE_CURE = (
    'name it as Python does, package.module, and let Python find it: start in the folder that it is in, with '
    'PYTHONPATH=. before the command'
)
_ROOTS: list[Registry] = [value for value in vars(registries).values() if isinstance(value, Registry)]


@cache
def runner_fields() -> frozenset[str]:
    """The top-level keys that mmengine reads: the runner's arguments and what it asks the config for."""
    asked = re.findall(r"self\.cfg\.get\(\s*'(\w+)'", inspect.getsource(Runner))
    arguments = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    return frozenset(arguments | {*asked, 'custom_imports'})


def check_config(cfg: Config) -> None:
    """Find misspelt fields, unknown types and unknown arguments; build nothing.

    Raises:
        UserError: names the places in the config, the values, and the nearest valid names.
    """
    raise_errors(find_mistakes(cfg))


def find_mistakes(cfg: Config) -> Iterator[Finding]:
    """All that :func:`check_config` raises, one by one."""
    sections = [key for key in _SECTIONS if key in cfg and not isinstance(cfg[key], _SECTIONS[key])]
    for key in sections:
        kinds = ' or '.join(kind.__name__ for kind in _SECTIONS[key] if kind is not type(None))
        yield Finding('error', 'wrong-type', key, f'{cfg[key]!r} is a {type(cfg[key]).__name__}; give a {kinds}.')
    if sections:
        return
    old = list(find_old_fields(cfg))
    yield from old
    for key in set(cfg) - runner_fields() - {found.place for found in old}:
        # A variable of the config may have any name; one that is not used and is nearly a field is a typo.
        used = len(re.findall(rf'\b{re.escape(key)}\b', cfg.text or '')) > 1
        nearest = get_close_matches(key, runner_fields(), n=1, cutoff=0.8)
        if nearest and not used:
            message = f'unknown field {key!r}; did you mean {nearest[0]!r}?'
            yield Finding('error', 'unknown-field', 'config', message)
    yield from find_lost_variables(cfg, cfg.filename, runner_fields())
    given = cfg.get('custom_imports')
    names = given.get('imports') if isinstance(given, dict) else None
    for name in [names] if isinstance(names, str) else names or ():
        if isinstance(name, str) and name not in sys.modules and not is_guarded():
            message = f'the module {name!r} could not be imported (allow_failed_imports=True hides why); {MODULE_CURE}.'
            yield Finding('error', 'import-failed', 'custom_imports', message)
    scope = cfg.get('default_scope') or 'mmengine'
    if find_spec(scope) is None:
        message = f'the config needs the package {scope!r}, which is not installed.'
        yield Finding('error', 'package-missing', 'default_scope', message)
        scope = 'mmengine'
    loops = {'train_cfg', 'val_cfg', 'test_cfg'}
    for key, value in cfg.items():
        if key in loops:
            yield from _check(value, key, registries.LOOPS, scope)
        elif key in _PLACES and (key in runner_fields() or key.startswith('tta_')):
            yield from _check(value, key, _PLACES[key], scope)
    if isinstance(cfg.get('randomness'), dict):
        yield from _check_arguments(cfg.randomness, 'randomness', Runner.set_randomness, set())


def _check(value: Any, path: str, place: Registry, scope: str) -> Iterator[Finding]:
    """Check ``value`` and all below it; ``place`` is the registry that a type here most likely belongs to."""
    key = re.sub(r'\[\d+\]$', '', path).rpartition('.')[2]
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _check(item, f'{path}[{index}]', place, scope)
    if not isinstance(value, dict):
        return
    scope = value.get('_scope_', scope)
    found = _factory(value, path, place, scope)
    if isinstance(found, Finding):
        yield found
    # build_norm_layer and its like take the dict apart: `norm_cfg=dict(type='BN', requires_grad=True)`.
    elif found is not None and not (
        place is registries.MODELS and (key.endswith('cfg') or key in ('dcn', 'roi_layer'))
    ):
        yield from _check_arguments(value, path, found, _TAKEN_OUT.get(place.name, set()), place.name)
    if value.get('type') == 'Albu':  # below it are albumentations' own names
        return
    for name, item in value.items():
        yield from _check(item, f'{path}.{name}', _PLACES.get(name, place), scope)


def _factory(value: dict, path: str, place: Registry, scope: str) -> Callable | Finding | None:
    """What the runner will call with ``value``, None where that is not known, or what is wrong with its type."""
    name = value.get('type')
    if isinstance(name, str):
        return _resolve(name, path, place, scope)
    if name is not None:
        return name if callable(name) else None
    if path == 'train_cfg':
        return EpochBasedTrainLoop if value.get('by_epoch') else IterBasedTrainLoop
    if path.endswith('_dataloader'):
        return DataLoader
    return {'val_cfg': ValLoop, 'test_cfg': TestLoop}.get(path)


def _resolve(name: str, path: str, place: Registry, scope: str) -> Callable | Finding | None:
    package = name.partition('.')[0]
    if '.' in name and package and find_spec(package) is None:
        message = f'{name!r} needs the package {package!r}, which is not installed.'
        return Finding('error', 'package-missing', path, message)
    refusal = ''
    for root in (place, registries.TASK_UTILS, *_ROOTS):
        try:
            found = _find(root, name, scope)
        except UserError as error:  # densevit's own registries explain themselves
            refusal = refusal or str(error)
            continue
        if found is not None:
            return found
    # Not a class: the owner's own switch, `nms=dict(type='nms')`, `same_up_trans=dict(type='conv')`.
    if (name.islower() and '.' not in name) or hasattr(import_module('mmcv.ops'), name):
        return None
    if today := today_of_type(name):
        message = f'{name!r} is of mmcv 1.x and is there no more: today it is {today}.'
        return Finding('error', 'old-config-key', path, message)
    if not refusal:
        ours = f'; did you mean {f"densevit.{name}"!r}?' if name in PARTS else ''
        if not ours and scope == 'mmengine':  # a config that names none
            owners = [each for each in ('mmseg', 'mmdet') if find_spec(each) and _find(place, name, each) is not None]
            ours = f"; {' and '.join(owners)} has it: set default_scope='{owners[0]}'." if owners else ''
        refusal = f'no {place.name} is called {name!r}' + (
            f'{ours or did_you_mean(name, _names(place, name, scope)) or "."} A class of your own needs '
            "custom_imports=dict(imports=['its.module']) in the config."
        )
    return Finding('error', 'unknown-type', path, refusal)


def _find(root: Registry, name: str, scope: str) -> Callable | None:
    try:
        return _of_scope(root, scope).get(name)
    except RuntimeError:  # mmengine's "Failed to get"
        return None


def _of_scope(root: Registry, scope: str) -> Registry:
    """The child of ``root`` that ``scope`` has, or ``root``: the registry that mmengine builds from."""
    with suppress(ImportError):
        import_module(f'{scope}.registry')
    return root.children.get(scope, root)


def _names(place: Registry, name: str, scope: str) -> Iterator[str]:
    """The names that could have been meant by ``name`` at this place."""
    prefix = name.partition('.')[0] if '.' in name else ''
    registry = _of_scope(place, prefix or scope)
    while registry is not None:
        yield from (f'{prefix}.{each}' if prefix else each for each in registry.module_dict)
        registry = None if prefix else registry.parent


def _check_arguments(
    value: dict, path: str, factory: Callable, also: set[str], registry: str = ''
) -> Iterator[Finding]:
    accepted, complete = parameters(factory)
    also = also | {'type', '_scope_', '_delete_', 'by_epoch' if path == 'train_cfg' else 'type'}
    if factory is DataLoader:
        also |= {'num_batch_per_epoch', 'disable_subprocess_warning'}
    name = value.get('type', factory)
    name = name if isinstance(name, str) else getattr(name, '__name__', str(name))
    for key, given in value.items():
        if key in accepted or key in also:
            if key in accepted and (expected := misfit(given, factory, key)):
                message = f'{name} takes {expected} for {key!r}, not {given!r} ({type(given).__name__}).'
                yield Finding('error', 'wrong-type', f'{path}.{key}', message)
            continue
        if today := today_of_argument(registry, key):
            message = f'{name} has no argument {key!r}, which is of mmcv 1.x: today it is {today}.'
            yield Finding('error', 'old-config-key', path, message)
        # With **kwargs a strange key may be meant; one letter beside a known one that is not given is a typo.
        elif complete or get_close_matches(key, set(accepted) - set(value), n=1, cutoff=0.85):
            hint = _ours_instead(name, key) or did_you_mean(key, accepted) or '.'
            yield Finding('error', 'unknown-argument', path, f'{name} has no argument {key!r}{hint}')


def _ours_instead(name: str, key: str) -> str:
    """A hint where mm's class of a name was found and the argument is one of densevit's class of this name."""
    if name not in PARTS:
        return ''
    with suppress(UserError):
        ours = import_part(name)
        if key in parameters(ours)[0]:
            return f'; densevit.{name} has: did you mean type={f"densevit.{name}"!r}?'
    return ''
