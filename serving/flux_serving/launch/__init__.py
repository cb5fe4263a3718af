"""Finds and runs Triton: the container's, or the embedded one from PyPI. Imports no model and no torch."""
