"""The refusal of a checkpoint."""

from __future__ import annotations

from ..errors import UserError

__all__ = ['CheckpointError']


class CheckpointError(UserError):
    """A checkpoint cannot be read, or its tensors do not fit the model; the message lists which."""
