"""Tensors, parameters, modes, models, limits, errors and metrics, each declared once. NumPy is the only dependency.

`tensors` and `parameter` define the types `Tensor` and `Parameter`. `parameters` declares the parameters of a request,
`internal_tensors` the tensors that models exchange and return, `models` the models and ensembles, `modes` the modes,
`limits` bounds and defaults, `errors` the exceptions, `codes` Triton's code of each, `environment` the environment
variables, `metrics` the metrics. Tensor names are literals here and nowhere else.
"""
