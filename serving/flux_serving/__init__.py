"""FLUX Redux on Triton: the package that every `model.py` imports.

Imports run one way: errors <- contract <- stages <- scheduling <- backend <- model.py.
"""
