"""``init_cfg=dict(type='densevit.Pretrained', checkpoint=PATH_OR_URL)``: weights that load whole or not at all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit
from mmengine.model.weight_init import update_init_info
from torch import nn

from ..errors import UserError
from ..registry import WEIGHT_INITIALIZERS
from .load import load_weights
from .read import read_state_dict

__all__ = ['Pretrained', 'always_whole']

_NAME = 'densevit.Pretrained'


@WEIGHT_INITIALIZERS.register_module()
class Pretrained:
    """Loads a checkpoint into any mmengine module, by :func:`densevit.checkpoints.load_weights`, and logs the report.

    mmengine's own ``'Pretrained'`` ignores names that do not match, and leaves random weights in silence.

    Args:
        checkpoint: path, or URL.
        prefix: take the part of the file whose names begin with this, without it.
        sha256: the file's hash, or its first 8 digits or more, to be verified.
    """

    def __init__(self, checkpoint: str, prefix: str | None = None, sha256: str | None = None) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix.rstrip('.') + '.' if prefix else ''
        self.sha256 = sha256

    def __call__(self, module: nn.Module) -> None:
        """As mmengine calls initializers.

        Raises:
            UserError: inside of an ``init_weights`` that began before this module was imported: children that are
                initialized behind it would overwrite what is loaded.
        """
        if hasattr(module, '_params_init_info') and _split(getattr(module, 'init_cfg', None))[0]:
            raise UserError(
                f'init_cfg={module.init_cfg!r}: {_NAME} has to be known before init_weights() begins; import '
                "densevit.checkpoints first, or give the config custom_imports=dict(imports=['densevit.checkpoints'])."
            )
        self.load(module)

    def load(self, module: nn.Module) -> None:
        """Load now.

        Raises:
            CheckpointError: the file cannot be read, or does not fit.
            UserError: nothing in it begins with ``prefix``.
        """
        tensors = read_state_dict(self.checkpoint, sha256=self.sha256)
        tensors = {name.removeprefix(self.prefix): t for name, t in tensors.items() if name.startswith(self.prefix)}
        if not tensors:
            raise UserError(
                f'init_cfg: no tensor of {self.checkpoint!r} has a name that begins with prefix={self.prefix!r}.'
            )
        report = load_weights(module, tensors)
        print_log(f'{type(module).__name__}: {self.checkpoint}: {report}', logger='current')
        if hasattr(module, '_params_init_info'):  # mmengine's list of what has initialized which parameter
            update_init_info(module, f'{_NAME}: {self.checkpoint}')


def always_whole(init_cfg: Any) -> Any:
    """``init_cfg`` with mmengine's ``'Pretrained'`` replaced by ours, which has nothing to do with ``map_location``."""
    if isinstance(init_cfg, Mapping):
        kind = init_cfg.get('type')
        if kind is not PretrainedInit and (kind == _NAME or str(kind).rpartition('.')[2] != 'Pretrained'):
            return init_cfg
        return {name: value for name, value in init_cfg.items() if name != 'map_location'} | {'type': _NAME}
    return [always_whole(cfg) for cfg in init_cfg] if isinstance(init_cfg, list | tuple) else init_cfg


def _split(init_cfg: Any) -> tuple[list[Mapping], list[Mapping]]:
    """Those of our type, and the others."""
    cfgs = [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg or ())
    ours = [cfg for cfg in cfgs if isinstance(cfg, Mapping) and cfg.get('type') in (_NAME, Pretrained)]
    return ours, [cfg for cfg in cfgs if cfg not in ours]


# mmengine runs the initializers of an init_cfg first and the init_weights of the children then; only its own literal
# 'Pretrained' waits for them. Besides, an owner's init_weights may do as it likes: mm's Swin and PVT load in their own
# way, whatever the type. So init_weights is wrapped, in every class that defines one: it runs as if our type were not
# in the init_cfg, and when it is through, children and all, the weights are loaded. For other modules nothing changes.
# It happens on import, which backbones and tools of ours see to; Pretrained.__call__ tells those who come too late.
def _load_last(init_weights: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init_weights)
    def wrapper(self: BaseModule, *args: Any, **kwargs: Any) -> None:
        given = getattr(self, 'init_cfg', None)
        ours, others = _split(given)
        if not ours or self.is_init:
            return init_weights(self, *args, **kwargs)
        self.init_cfg = others or None
        try:
            init_weights(self, *args, **kwargs)
            for cfg in ours:
                _build(cfg).load(self)
        except BaseException:
            self.is_init = False  # else a second call would do nothing, and the weights stay random
            raise
        finally:
            self.init_cfg = given

    return wrapper


def _build(cfg: Mapping[str, Any]) -> Pretrained:
    arguments = {name: value for name, value in cfg.items() if name not in ('type', '_scope_')}
    try:
        return Pretrained(**arguments)
    except TypeError as error:
        raise UserError(
            f"init_cfg={dict(cfg)!r}: {error}; give dict(type='{_NAME}', checkpoint=PATH_OR_URL), with prefix= where "
            'the weights lie below one, and sha256= to have the file verified.'
        ) from error


def _wrap(cls: type[BaseModule]) -> None:
    if 'init_weights' in vars(cls):
        cls.init_weights = _load_last(cls.init_weights)


def _wrap_new(cls: type[BaseModule], **options: Any) -> None:
    super(BaseModule, cls).__init_subclass__(**options)
    _wrap(cls)


def _family(cls: type) -> Iterator[type]:
    yield cls
    for subclass in cls.__subclasses__():
        yield from _family(subclass)


for _cls in set(_family(BaseModule)):
    _wrap(_cls)
BaseModule.__init_subclass__ = classmethod(_wrap_new)
