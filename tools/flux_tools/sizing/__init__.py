"""Sizes for the manifests: shared memory, the gateway's memory, times to end, and the load that is enough for a GPU.

What the manifests under deploy/ say comes from here; `python -m flux_tools.sizing` prints it.
"""
