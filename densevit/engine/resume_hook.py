"""What a checkpoint needs beside mmengine's content, so that a run goes on exactly."""

from __future__ import annotations

from typing import Any

from mmengine.dist import gather_object, get_rank
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.optim import OptimWrapper
from torch import Tensor
from torch.distributed.tensor import DTensor

from .train_loops import VALIDATED

__all__ = ['ResumeHook']

_GRADIENTS, _STOPPING = 'gradients', 'early_stopping'


class ResumeHook(Hook):
    """Keeps the gradients that are being accumulated, what early stopping has seen, and which validation was the last.

    :class:`densevit.engine.runner.Runner` has one in every run.
    """

    # the validation counts as done before a checkpoint that other hooks write because of it
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._gradients: list[dict[str, Tensor]] | None = None
        self._resumed: dict[str, Any] = {}

    def collect(self, runner: Any) -> None:
        """Bring the gradients of all processes to the first; called by all of them before a checkpoint."""
        wrapper = runner.optim_wrapper
        between_updates = isinstance(wrapper, OptimWrapper) and wrapper.inner_count > 0 and not wrapper.should_update()
        self._gradients = gather_object(_gradients(runner)) if between_updates else None

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Add to a checkpoint that holds a whole state."""
        if 'optimizer' not in checkpoint:
            return
        if self._gradients is not None:
            checkpoint[_GRADIENTS], self._gradients = self._gradients, None
        if states := [_state(hook) for hook in _stopping(runner)]:
            checkpoint[_STOPPING] = states

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Keep what is to be given back when everything else is in its place."""
        if runner._resume:
            self._resumed = {key: checkpoint.get(key) for key in (_GRADIENTS, _STOPPING)}
            self._resumed['any'] = True

    def before_train(self, runner: Any) -> None:
        """Give it back."""
        resumed, self._resumed = self._resumed, {}
        if not resumed:
            return
        for hook, state in zip(_stopping(runner), resumed[_STOPPING] or (), strict=False):
            vars(hook).update(state)
        wrapper, gradients = runner.optim_wrapper, resumed[_GRADIENTS]
        if not isinstance(wrapper, OptimWrapper) or wrapper.inner_count == 0 or wrapper.should_update():
            return
        if gradients is None or len(gradients) != runner.world_size:
            runner.logger.warning(
                f'the checkpoint of iteration {runner.iter} lies between two updates and has no gradients of '
                f'{runner.world_size} process(es): those accumulated before are lost.'
            )
            return
        mine = gradients[get_rank()]
        for name, parameter in runner.bare_model.named_parameters():
            if name in mine:
                gradient = mine[name].to(parameter.device)
                if isinstance(parameter, DTensor):
                    # shards need not have the same size
                    gradient = DTensor.from_local(
                        gradient,
                        parameter.device_mesh,
                        parameter.placements,
                        shape=parameter.shape,
                        stride=parameter.stride(),
                    )
                parameter.grad = gradient

    def after_val_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """Note that this validation has been done."""
        runner.message_hub.update_info(VALIDATED, runner.iter)


def _gradients(runner: Any) -> dict[str, Tensor]:
    """Of this process; of a sharded parameter its shard."""
    gradients = ((name, parameter.grad) for name, parameter in runner.bare_model.named_parameters())
    return {
        name: (gradient.to_local() if isinstance(gradient, DTensor) else gradient).cpu()
        for name, gradient in gradients
        if gradient is not None
    }


def _stopping(runner: Any) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]


def _state(hook: EarlyStoppingHook) -> dict[str, Any]:
    return {'best_score': float(hook.best_score), 'wait_count': int(hook.wait_count)}
