"""What the numbers were measured on: the machine, its measured rates, the versions of everything that took part."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .measure import timer

__all__ = ['describe', 'processor', 'rates', 'set_dtype', 'versions']

_PACKAGES = (
    'torch', 'torchvision', 'timm', 'transformers', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation',
    'onedl-mmdetection', 'pycocotools', 'faster-coco-eval', 'numpy',
)  # fmt: skip


def processor() -> str:
    """The CPU's name and what sets its speed, as the system tells it."""
    name, flags = platform.processor() or platform.machine(), set()
    with open('/proc/cpuinfo') if Path('/proc/cpuinfo').is_file() else open(os.devnull) as file:
        for line in file:
            key, _, value = line.partition(':')
            if key.strip() == 'model name':
                name = value.strip()
            elif key.strip() == 'flags':
                flags = set(value.split())
    known = [flag for flag in ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16') if flag in flags]
    return f'{name} ({", ".join(known)})' if known else name


def versions() -> dict[str, str]:
    """Of Python, of densevit and of every package that can take part and is installed."""
    from .. import __version__

    found = {'python': platform.python_version(), 'densevit': __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def rates(device: torch.device, *, rounds: int = 5, side: int = 4096) -> dict[str, float]:
    """The limits of the machine, measured: float32 matrix product (FLOP/s) and copy (bytes/s, read and written).

    On CUDA also the product in bfloat16.
    """
    clock = timer(device)

    def median(run: Any) -> float:
        run()
        return float(np.median([clock(run) for _ in range(rounds)]))

    found = {}
    with torch.inference_mode():
        for name, dtype in (('float32', torch.float32), ('bf16', torch.bfloat16)):
            if name == 'bf16' and device.type != 'cuda':
                continue
            a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
            found[f'matmul_{name}_flops'] = 2 * side**3 / median(lambda a=a, b=b: a @ b)
        x = torch.randn(side * side * 4, device=device)
        y = torch.empty_like(x)
        found['copy_bytes'] = 2 * x.nbytes / median(lambda: y.copy_(x))
    return found


def describe(device: torch.device, *, measure: bool = True) -> dict[str, Any]:
    """The machine for the record; ``measure`` adds :func:`rates`."""
    found: dict[str, Any] = {
        'date': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'system': f'{platform.system()} {platform.machine()}',
        'cpu': processor(),
        'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
        'threads': torch.get_num_threads(),
        'device': str(device),
        'versions': versions(),
    }
    if device.type == 'cuda':
        found['gpu'] = torch.cuda.get_device_name(device)
        found['cuda'] = torch.version.cuda
        found['tf32'] = torch.backends.cuda.matmul.allow_tf32
    if measure:
        found['rates'] = rates(device)
    return found


def set_dtype(dtype: str) -> None:
    """Let matrix products and convolutions on CUDA use TF32 if, and only if, ``dtype`` is ``'tf32'``."""
    torch.backends.cuda.matmul.allow_tf32 = dtype == 'tf32'
    torch.backends.cudnn.allow_tf32 = dtype == 'tf32'
