"""What the launcher of a run has told this process: its number, and how many there are."""

from __future__ import annotations

import os

from mmengine.config import Config

__all__ = ['NUMBERS', 'is_main_process', 'num_processes']

# By launcher: the environment variables with a process's number and with how many there are.
NUMBERS = {
    'pytorch': ('RANK', 'WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
}


def is_main_process(cfg: Config) -> bool:
    """Whether this is the process that prints and writes; without a launcher every process is on its own.

    Read from the environment, since it is asked before the processes know each other.
    """
    return _number(cfg, 0) in (None, 0)


def num_processes(cfg: Config) -> int:
    """How many processes the run has; as :func:`is_main_process`, from the environment."""
    return _number(cfg, 1) or 1


def _number(cfg: Config, index: int) -> int | None:
    names = NUMBERS.get(cfg.get('launcher', 'none'))
    value = os.environ.get(names[index]) if names else None
    return None if value is None else int(value)
