"""Triton's entry point of `canny_edges`."""

from flux_serving.backend.entry_point import EntryPoint


class TritonPythonModel(EntryPoint):
    backend = "flux_serving.backend.canny_edges:CannyEdgesModel"
