"""The doorway from Triton to `flux_serving.backend.flux_status`, which is imported only when the model starts."""


class TritonPythonModel:
    def initialize(self, args):
        from flux_serving.backend.flux_status import FluxStatusModel

        self._model = FluxStatusModel(args)

    def execute(self, requests):
        return self._model.execute(requests)

    def is_ready(self):
        from flux_serving.backend.health import HEALTH

        return HEALTH.is_ready()

    def finalize(self):
        self._model.close()
