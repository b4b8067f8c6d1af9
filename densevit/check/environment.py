"""Whether the packages of this machine fit each other and the config."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.config import Config

from ..analysis import environment
from .finding import Finding

__all__ = ['environment_findings']

_LEVELS = {'problem': 'error', 'warning': 'note'}


def environment_findings(cfg: Config) -> Iterator[Finding]:
    """Two mm stacks on top of each other, packages that do not import, and versions that nothing was tested with."""
    conflicts = environment.mm_conflicts()
    for conflict in conflicts:
        yield Finding('error', 'mm-packages-mixed', 'environment', f'{conflict}.')
    scope = cfg.get('default_scope')
    for module in environment.MM_PACKAGES:
        if module in environment.MM_TASKS and module != scope:
            continue
        check = environment.check_mm(module)
        if check.state != 'ok' and not any(f' in {module}/: ' in conflict for conflict in conflicts):
            kind = 'package-missing' if check.found.startswith('not installed') else 'package-version'
            level = 'error' if kind == 'package-missing' else _LEVELS[check.state]
            yield Finding(level, kind, 'environment', f'{module}: {check.found}; {check.advice}.')
    for distribution, module in (('torch', 'torch'), ('torchvision', 'torchvision'), ('numpy', 'numpy')):
        check = environment.check_package(distribution, module)
        if check.state != 'ok':
            message = f'{distribution}: {check.found}; {check.advice}.'
            yield Finding(_LEVELS[check.state], 'package-version', 'environment', message)
    operators = environment.check_ops()
    if operators.state != 'ok':
        message = f"mmcv's operators: {operators.found}; {operators.advice}."
        yield Finding(_LEVELS[operators.state], 'operator-missing', 'environment', message)
