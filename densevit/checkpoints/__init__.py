"""Weights from files: read without running code, named as our models name them, loaded with a report."""

from .export import export_weights
from .load import CheckpointError, LoadReport, load_weights
from .pretrained import Pretrained
from .read import read_checkpoint, read_state_dict

__all__ = [
    'CheckpointError',
    'LoadReport',
    'Pretrained',
    'export_weights',
    'load_weights',
    'read_checkpoint',
    'read_state_dict',
]
