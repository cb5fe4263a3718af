"""Between Triton and the stages: the only importer of `triton_python_backend_utils`.

Each module here is what one `model.py` opens onto.
"""
