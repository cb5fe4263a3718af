"""Every tensor and every model, declared once. Numpy only: the client imports this floor too.

`tensors` says what a tensor is, `limits` holds every bound and default, `knobs` what callers may ask for, `models` the
models and ensembles, `codes` gives each error Triton's code, `pbtxt` renders the models for Triton. Tensor names are
literals here and nowhere else.
"""
