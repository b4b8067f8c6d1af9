"""Weights, gradients and optimizer state divided among the processes: torch's FSDP2 for mmengine's runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import broadcast, is_main_process
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from ..registry import MODEL_WRAPPERS

__all__ = ['FullyShardedModel', 'whole_states']


@MODEL_WRAPPERS.register_module()
class FullyShardedModel(nn.Module):
    """A model of which each process holds a part: of every parameter, its gradient and its optimizer state.

    torch's ``fully_shard`` (FSDP2, https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html) gathers the
    weights of a block when it computes and drops them when it is done; what is not in a block of the backbone (stem,
    norms, neck, heads) is gathered once per iteration. mmengine's own strategy is FSDP1, which refuses a CPU.

    The mathematics is that of ``DistributedDataParallel``. Checkpoints too: they are written and read whole, so that
    any number of processes, sharded or not, goes on from them. In eval mode every process holds all weights: so
    processes may have different numbers of batches, and the first may predict on its own.

    ``init_weights()`` of the model is called here, as random numbers for a part of a tensor would be others.

    Args:
        module: the model, on its device. Its class, and those of its blocks, become FSDP's in place.
        mixed_precision: gather the weights of the blocks in bfloat16, and compute there with such weights and inputs,
            but for blocks with BatchNorm; gradients are summed in float32. Meant for training under bfloat16
            autocast, which the rest runs in.
    """

    def __init__(self, module: nn.Module, *, mixed_precision: bool = False) -> None:
        super().__init__()
        if hasattr(module, 'init_weights'):
            module.init_weights()
        for tensor in (*module.parameters(), *module.buffers()):
            broadcast(tensor.data)
        self.module = module
        device = next(module.parameters()).device.type
        mesh = dist.init_device_mesh(device, (dist.get_world_size(),))
        low = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32)
        backbone = getattr(module, 'backbone', module)
        self._blocks = [each for each in backbone.modules() if isinstance(each, getattr(backbone, 'BLOCKS', ()))]
        for block in self._blocks:
            # the running statistics of a BatchNorm are no parameters, and stay float32
            has_statistics = any(isinstance(each, _BatchNorm) for each in block.modules())
            policy = low if mixed_precision and not has_statistics else MixedPrecisionPolicy()
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(module, mesh=mesh, reshard_after_forward=False)
        module.register_load_state_dict_pre_hook(_take_shards)

    def train(self, mode: bool = True) -> FullyShardedModel:
        """As of any module; in eval mode all weights are gathered."""
        super().train(mode)
        for each in self.modules():
            if isinstance(each, FSDPModule):
                each.set_reshard_after_forward(mode and each is not self.module, recurse=False)
                if mode:
                    each.reshard()
                else:
                    each.unshard()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """The model's: mmengine's loops call it."""
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: Any) -> list:
        """The model's: mmengine's loops call it."""
        return self.module.val_step(data)

    def test_step(self, data: Any) -> list:
        """The model's: mmengine's loops call it."""
        return self.module.test_step(data)

    @staticmethod
    def prepare(optim_wrapper: OptimWrapper) -> None:
        """Let an optimizer of sharded parameters read whole states, and report the norm of whole gradients."""
        optim_wrapper.optimizer.register_load_state_dict_pre_hook(_shard_optimizer_state)
        if optim_wrapper.clip_grad_kwargs:
            optim_wrapper.clip_func = partial(_clip, optim_wrapper.clip_func)


@contextmanager
def whole_states(runner: Any) -> Iterator[None]:
    """Within this context the first process's model and optimizer say their states in whole tensors, on the CPU.

    To be entered by all processes of a run, which gather them here. Models that are not sharded have their own way.
    """
    if not isinstance(runner.model, FullyShardedModel):
        yield
        return
    model, wrapper = runner.model.module, runner.optim_wrapper
    states = [(model, _whole(model.state_dict()))]
    if isinstance(wrapper, OptimWrapper):  # not yet built where weights are only tested
        states.append((wrapper, _whole(wrapper.state_dict())))
    for part, state in states:
        part.state_dict = lambda state=state: state
    try:
        yield
    finally:
        for part, _ in states:
            del part.state_dict  # the class's own comes back


def _whole(state: Any) -> Any:
    """``state`` with all sharded tensors gathered, in the same order by all processes; only the first keeps them."""
    if isinstance(state, DTensor):
        whole = state.full_tensor()
        return whole.cpu() if is_main_process() else None
    if isinstance(state, Mapping):
        return type(state)((key, _whole(value)) for key, value in state.items())
    if isinstance(state, (list, tuple)):
        return type(state)(_whole(value) for value in state)
    return state


def _take_shards(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Put this process's part in the place of each whole tensor that is about to be loaded."""
    own = dict(module.named_parameters(prefix=prefix.rstrip('.')))
    for name, tensor in state.items():
        if name in own:
            state[name] = _shard_like(tensor, own[name])


def _shard_like(tensor: Any, parameter: Tensor) -> Any:
    """This process's part of a whole tensor, for a parameter that is sharded."""
    fits = isinstance(parameter, DTensor) and isinstance(tensor, Tensor) and tensor.shape == parameter.shape
    if not fits or isinstance(tensor, DTensor):
        return tensor
    local = tensor.to(parameter.device)
    # every process has read the whole tensor: nothing is to be sent
    return distribute_tensor(local, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _shard_optimizer_state(optimizer: Optimizer, content: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state of whole tensors, as one process writes it, in parts like the parameters'."""
    parameters = [each for group in optimizer.param_groups for each in group['params']]
    numbers = [each for group in content['param_groups'] for each in group['params']]
    of_number = dict(zip(numbers, parameters))
    state = {
        number: {key: _shard_like(value, of_number[number]) for key, value in entries.items()}
        if number in of_number
        else entries
        for number, entries in content['state'].items()
    }
    return {**content, 'state': state}


def _clip(clip: Callable[..., Tensor | None], parameters: list[Tensor], **options: Any) -> Tensor | None:
    norm = clip(parameters, **options)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
