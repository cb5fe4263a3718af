"""The models' backends: the only package that imports `triton_python_backend_utils`.

Each `model.py` runs a class of this package.
"""
