"""What FLUX.1-dev takes on a GPU, beside stock diffusers, in one run; with random weights, of which there need be none.

A step's time does not depend on what the weights are, only on how many there are.
"""
