"""Peers and measurements for `tools/benchmark.py`."""
