"""The modes: what a caller can ask for, each declared once.

A `Mode` is an ensemble together with its names outside Triton. The client's methods and commands, the modes of the REST
APIs, the page and the benchmarks are derived from it. CONTRIBUTING.md says how to add one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from flux_contract.models import FLUX_CANNY, FLUX_IMG2IMG, FLUX_INPAINT, FLUX_REDUX, FLUX_TEXT2IMG, Ensemble, mode_name
from flux_contract.parameter import Parameter
from flux_contract.parameters import GUIDANCE_SCALE, IMAGE, SIMILARITY, STRENGTH


class Needs(Enum):
    """An optional part of the checkpoints that a mode needs."""

    TEXT_ENCODERS = "text encoders"
    CONTROLNET = "ControlNet"


@dataclass(frozen=True)
class Mode:
    """purpose: help text of the command line, an imperative. needs: parts without which it is not served.

    genserve: its name in GenServe's API. genserve_model: the model that stands for it there. genserve_defaults: that
    API's defaults for this mode, by tensor name, where they differ from the parameters' own. client_parameters: those
    that are not tensors, because the client converts them to others.
    """

    ensemble: Ensemble
    purpose: str
    genserve: str
    genserve_model: str
    needs: tuple[Needs, ...] = ()
    genserve_defaults: Mapping[str, int | float | str] = field(default_factory=dict)
    client_parameters: tuple[Parameter, ...] = ()

    @property
    def name(self) -> str:
        """Of the client's method, the command, and `MODE`."""
        return mode_name(self.ensemble)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters that a caller may set, in the order of the ensemble's inputs."""
        return tuple(tensor for tensor in self.ensemble.inputs if isinstance(tensor, Parameter))

    @property
    def subjects(self) -> tuple[Parameter, ...]:
        """The required parameters without a default, and the images."""
        return tuple(
            parameter
            for parameter in self.parameters
            if parameter.name == IMAGE.name or (not parameter.optional and parameter.default is None)
        )

    @property
    def options(self) -> tuple[Parameter, ...]:
        """The other parameters, and those of the client."""
        subjects = self.subjects
        return (*(each for each in self.parameters if each not in subjects), *self.client_parameters)


#: GenServe's default for every mode but Redux.
_GENSERVE_GUIDANCE = {GUIDANCE_SCALE.name: 3.5}

REDUX = Mode(FLUX_REDUX, "make variations of images", "redux", "flux1-redux-dev", client_parameters=(SIMILARITY,))
IMG2IMG = Mode(FLUX_IMG2IMG, "change images", "img2img", "flux1-dev", genserve_defaults=_GENSERVE_GUIDANCE)
INPAINT = Mode(
    FLUX_INPAINT,
    "change the masked part of images",
    "fill",
    "flux1-fill-dev",
    genserve_defaults={**_GENSERVE_GUIDANCE, STRENGTH.name: 1.0},
)
TEXT2IMG = Mode(
    FLUX_TEXT2IMG,
    "generate images from prompts",
    "text2img",
    "flux1-dev",
    (Needs.TEXT_ENCODERS,),
    genserve_defaults=_GENSERVE_GUIDANCE,
)
CANNY = Mode(
    FLUX_CANNY,
    "generate images that follow the edges of others",
    "controlnet",
    "flux1-canny-dev",
    (Needs.CONTROLNET,),
    genserve_defaults=_GENSERVE_GUIDANCE,
)
MODES: tuple[Mode, ...] = (REDUX, IMG2IMG, INPAINT, TEXT2IMG, CANNY)
BY_NAME: Mapping[str, Mode] = {mode.name: mode for mode in MODES}
