"""How large a server's shared memory must be, how long it may take to end, and how much of a load is enough for a GPU.

What the manifests under deploy/ say comes from here; `PYTHONPATH=scripts python -m flux_sizing` prints it.
"""
