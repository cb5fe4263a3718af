"""FLUX Redux on Triton: the package that every `model.py` opens onto.

Imports run one way: errors <- contract <- stages <- scheduling <- backend <- model.py.
"""
