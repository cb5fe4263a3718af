"""The demo checkpoint: a small FLUX and Redux, trained on a CPU, in stock diffusers layout.

The package contains its images, its architecture, and the compact assets that `asset.expand` expands.
`flux_tools.training` trains it. The product does not import this package.
"""
