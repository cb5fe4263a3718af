"""Sizes for the manifests under deploy/: shared memory, gateway memory, shutdown times and target load of a GPU.

`python -m flux_tools.sizing` prints them.
"""
