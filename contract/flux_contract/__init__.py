"""Tensors, parameters, modes, models, limits, errors and metrics, each declared once. NumPy is the only dependency.

`tensors` and `parameter` define what a tensor and a parameter are. `parameters` declares what a caller may set,
`internal_tensors` what models pass to each other and return, `models` the models and ensembles, `modes` what a caller
can ask for, `limits` bounds and defaults, `errors` the exceptions, `codes` Triton's code of each, `environment` the
environment variables, `metrics` the metrics. Tensor names are literals here and nowhere else.
"""
