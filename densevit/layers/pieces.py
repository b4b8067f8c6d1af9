"""How much to compute at a time.

Memory that a program gets anew from the system is cleared page by page when it is first touched, which costs more than
writing to it. Large intermediate results get new memory every time; small ones get that of those before them.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ['at_a_time', 'is_compiling_inference', 'is_transformed']

NUMBERS = 2**21  # 8 MiB in float32

# How much freed memory glibc keeps instead of giving it back is twice the largest block freed so far, of those below
# 32 MiB (mallopt(3), M_MMAP_THRESHOLD). So one is freed here; no page of it is ever touched.
torch.empty(31 * 2**20, dtype=torch.uint8, device='cpu')


def is_transformed() -> bool:
    """Whether a compiler, a tracer or ``torch.func`` runs the program, and so must see operations that it knows."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()


def is_compiling_inference() -> bool:
    """Whether torch.compile sees a pass without gradients; not an exporter, which wants what every runtime knows."""
    return torch.compiler.is_dynamo_compiling() and not (torch.compiler.is_exporting() or torch.is_grad_enabled())


def at_a_time(x: Tensor, count: int, numbers: int) -> int:
    """Of ``count`` things that are computed from ``x`` alike, how many to compute in one go: at least one.

    All of them but in inference on a CPU: a gradient needs every intermediate result anyway, and a GPU is idle between
    small pieces.

    Args:
        x: tells the device.
        count: how many there are.
        numbers: how many numbers one needs in between.
    """
    whole = torch.is_grad_enabled() or is_transformed() or x.device.type != 'cpu'
    return max(1, count if whole else min(count, NUMBERS // numbers))
