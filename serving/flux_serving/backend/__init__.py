"""The models' backends: the only package that imports `triton_python_backend_utils`.

Each module here is what one `model.py` opens onto.
"""
