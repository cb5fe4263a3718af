"""The demo checkpoint: a small FLUX and Redux, trained on a CPU, in stock diffusers layout.

Here live its images, its architecture, and the compact asset that set-up expands; `flux_tools.training` made it.
Nothing that serves imports this package.
"""
