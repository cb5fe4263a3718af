"""The modes that a client can request, each declared once.

A `Mode` is an ensemble together with its names outside Triton. The client's methods and commands, the modes of the REST
APIs, the page and the benchmarks are derived from it. CONTRIBUTING.md says how to add one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from flux_contract import limits
from flux_contract.models import FLUX_CANNY, FLUX_IMG2IMG, FLUX_INPAINT, FLUX_REDUX, FLUX_TEXT2IMG, Ensemble, mode_name
from flux_contract.parameter import Parameter
from flux_contract.parameters import GUIDANCE_SCALE, IMAGE, SIMILARITY, STRENGTH


class Needs(Enum):
    """An optional part of the checkpoints that a mode needs."""

    TEXT_ENCODERS = "text encoders"
    CONTROLNET = "ControlNet"


@dataclass(frozen=True)
class Mode:
    """A mode. purpose: help text of the command line, an imperative. needs: parts without which it is not served.

    genserve: name of the mode in GenServe's API. genserve_model: name of its model there. genserve_defaults: defaults
    of that API for this mode, by tensor name, if they differ from those of the parameters. client_parameters: keywords
    that are not tensors, because the client converts them to tensors.
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
        """Name of the client's method, of the command, and of `MODE`."""
        return mode_name(self.ensemble)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters that a client may set, in the order of the ensemble's inputs."""
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
        """The other parameters, including `client_parameters`."""
        subjects = self.subjects
        return (*(each for each in self.parameters if each not in subjects), *self.client_parameters)


#: GenServe's default for every mode except Redux.
_GENSERVE_GUIDANCE = {GUIDANCE_SCALE.name: 3.5}

REDUX = Mode(FLUX_REDUX, "generate variations of images", "redux", "flux1-redux-dev", client_parameters=(SIMILARITY,))
IMG2IMG = Mode(FLUX_IMG2IMG, "change images", "img2img", "flux1-dev", genserve_defaults=_GENSERVE_GUIDANCE)
INPAINT = Mode(
    FLUX_INPAINT,
    "change the masked part of images",
    "fill",
    "flux1-fill-dev",
    genserve_defaults={**_GENSERVE_GUIDANCE, STRENGTH.name: limits.DEFAULT_INPAINT_STRENGTH},
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
    "generate images that follow the edges of other images",
    "controlnet",
    "flux1-canny-dev",
    (Needs.CONTROLNET,),
    genserve_defaults=_GENSERVE_GUIDANCE,
)
MODES: tuple[Mode, ...] = (REDUX, IMG2IMG, INPAINT, TEXT2IMG, CANNY)
BY_NAME: Mapping[str, Mode] = {mode.name: mode for mode in MODES}
