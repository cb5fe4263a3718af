"""The demo checkpoint: a small FLUX and Redux, trained on a CPU, in stock diffusers layout.

Here live the pictures it learns from, its architecture, its training, and the compact asset that set-up expands.
Nothing that serves imports this package.
"""
