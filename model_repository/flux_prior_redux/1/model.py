"""Triton's entry point of `flux_prior_redux`."""

from flux_serving.backend.entry_point import EntryPoint


class TritonPythonModel(EntryPoint):
    backend = "flux_serving.backend.flux_prior_redux:FluxPriorReduxModel"
