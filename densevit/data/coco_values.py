"""What the values in COCO files may be."""

from __future__ import annotations

from typing import Any

__all__ = ['is_number']


def is_number(value: Any) -> bool:
    """Whether it can be calculated with: a number and no bool, finite, and of a size that pixels can have."""
    return type(value) in (int, float) and abs(value) < 1e9
