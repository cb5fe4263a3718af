"""A copy of the contract with an additional parameter and mode.

Tests check that everything that is derived from the contract has them: test_declared_once_gateway.py for the gateway,
test_declared_once.py for everything else.
"""

from __future__ import annotations

from dataclasses import replace

from flux_contract import models, modes
from flux_contract.modes import Mode
from flux_contract.parameter import Parameter, RestField
from flux_contract.tensors import Bounds, DType

#: In `flux_base` and in every ensemble.
PARAMETER = Parameter(
    "PROBE_LEVEL",
    DType.FP32,
    (1,),
    "Level of the probe, beside TRUE_CFG_SCALE",
    optional=True,
    bounds=Bounds(0, 3),
    default=1.5,
    genserve=RestField(),
    openai=RestField(),
    on_page=True,
)


def with_parameter(ensemble: models.Ensemble) -> models.Ensemble:
    """Return the ensemble with PARAMETER, also in its `flux_base`."""
    steps = tuple(
        replace(step, model=FLUX_BASE) if step.model.name == FLUX_BASE.name else step for step in ensemble.steps
    )
    return replace(ensemble, inputs=(*ensemble.inputs, PARAMETER), steps=steps)


FLUX_BASE = replace(models.FLUX_BASE, inputs=(*models.FLUX_BASE.inputs, PARAMETER))
MODE = Mode(
    with_parameter(replace(models.FLUX_REDUX, name="flux_probe", purpose="Images to probes")),
    "probe images",
    "probe",
    "flux1-probe",
)
MODES = (*(replace(mode, ensemble=with_parameter(mode.ensemble)) for mode in modes.MODES), MODE)
ENSEMBLES = tuple(mode.ensemble for mode in MODES)
_REPLACED = {model.name: model for model in (FLUX_BASE, models.stream_model(ENSEMBLES))}
MODELS = tuple(_REPLACED.get(model.name, model) for model in models.MODELS)
