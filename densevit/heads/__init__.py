"""Heads that mmsegmentation and mmdetection have no counterpart of."""
