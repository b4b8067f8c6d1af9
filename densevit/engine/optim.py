"""Parameter groups: one per setting, not one per tensor."""

from __future__ import annotations

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS

__all__ = ['GroupedOptimWrapperConstructor']


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GroupedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with the parameters that share all settings in one group.

    With any ``paramwise_cfg`` mmengine's makes a group of every tensor, 220 of them for UperNet with Swin-T where two
    settings occur, and torch's fused and multi-tensor updates then run once per tensor. The settings, and so the
    update of every parameter, are the same. Groups stand in the order of their first parameter; a checkpoint's
    optimizer state belongs to its grouping, so a run is resumed with the constructor that it was started with.
    """

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '', is_dcn_module: bool | None = None
    ) -> None:
        """Append the parameter groups of ``module``, as mmengine's constructor asks for them."""
        if prefix:  # a part, on the way down from the model
            super().add_params(params, module, prefix, is_dcn_module)
            return
        single: list[dict[str, Any]] = []
        super().add_params(single, module, prefix, is_dcn_module)
        groups: dict[str, dict[str, Any]] = {}
        for group in single:
            settings = {name: value for name, value in group.items() if name != 'params'}
            merged = groups.setdefault(repr(sorted(settings.items())), {'params': [], **settings})
            merged['params'] += group['params']
        params += groups.values()
