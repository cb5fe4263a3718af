"""Triton's entry point of `image_encode`."""

from flux_serving.backend.entry_point import EntryPoint


class TritonPythonModel(EntryPoint):
    backend = "flux_serving.backend.image_encode:ImageEncodeModel"
