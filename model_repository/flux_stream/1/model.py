"""Triton's entry point of `flux_stream`."""

from flux_serving.backend.entry_point import EntryPoint


class TritonPythonModel(EntryPoint):
    backend = "flux_serving.backend.flux_stream:FluxStreamModel"
