"""Compares FLUX.1-dev's steps on a GPU with stock diffusers, with random weights, so that no checkpoint is needed.

The time of a step depends on the number of weights, not on their values.
"""
