"""A parameter and a mode that are added to a copy of the contract appear in everything that is derived from it.

The gateway's part is in test_declared_once_gateway.py.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from contract_copy import ENSEMBLES, MODE, MODELS, MODES, PARAMETER
from flux_client.cli.parser import make_parser
from flux_client.cli.values import keywords_from
from flux_client.fake import FakeTransport
from flux_client.fake_server import answer
from flux_client.modes import KEYWORDS, keywords_of, stream_keywords_of
from flux_client.request import Request
from flux_contract import models, seeds
from flux_contract.errors import InvalidRequest
from flux_contract.groups import GROUPS
from flux_contract.models import FLUX_BASE, FLUX_STREAM
from flux_contract.parameter import Parameter
from flux_rendering.client_keywords import render_keywords
from flux_rendering.pbtxt import render_all
from flux_rendering.tables import render_parameters, render_tensors
from flux_tools.bench.memory_report import wanted_weights
from flux_tools.bench.workloads import mixed
from flux_tools.perf.inputs import Work, of_every_input

ROOT = Path(__file__).resolve().parents[2]
NAME, KEYWORD, FLAG = "PROBE_LEVEL", "probe_level", "--probe-level"


def image() -> np.ndarray:
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="PNG")
    array = np.empty((1, 1), dtype=np.object_)
    array[0, 0] = buffer.getvalue()
    return array


def level(value: float) -> np.ndarray:
    return np.array([[value]], np.float32)


def help_of(command: str) -> str:
    """Help of a command on one line."""
    parser = make_parser(MODES)
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return " ".join(commands.choices[command].format_help().split())


def keywords_module() -> ModuleType:
    module = ModuleType("rendered_keywords")
    # TypedDict looks its module up.
    sys.modules[module.__name__] = module
    exec(compile(render_keywords(MODES), "keywords.py", "exec"), module.__dict__)
    return module


def test_real_contract_is_unchanged() -> None:
    assert NAME not in {tensor.name for tensor in FLUX_BASE.inputs}
    assert MODE.name not in KEYWORDS


@pytest.mark.parametrize("model", [FLUX_BASE.name, FLUX_STREAM.name, *(mode.ensemble.name for mode in MODES)])
def test_parameter_is_an_input_in_config_pbtxt(model: str) -> None:
    text = render_all(models=MODELS, ensembles=ENSEMBLES)[Path(model, "config.pbtxt")]
    assert f'name: "{NAME}", data_type: TYPE_FP32, dims: [1], optional: true' in text
    if model not in (FLUX_BASE.name, FLUX_STREAM.name):
        assert f'input_map {{ key: "{NAME}" value: "{NAME}" }}' in text


def test_mode_is_an_ensemble_with_its_own_config_pbtxt() -> None:
    text = render_all(models=MODELS, ensembles=ENSEMBLES)[Path("flux_probe", "config.pbtxt")]
    assert 'name: "flux_probe"\nplatform: "ensemble"' in text


def test_documentation_lists_parameter_and_mode() -> None:
    tensors = render_tensors(MODELS, ENSEMBLES)
    assert tensors.count(f"| `{NAME}` | FP32 | [1] | `1.5` | 0..3 | Level of the probe") == 1
    in_lists = [line for line in tensors.splitlines() if line.startswith("| optional inputs |") and f"`{NAME}`" in line]
    assert len(in_lists) == len(MODES) + 2
    assert "## flux_probe (ensemble)\n\nImages to probes." in tensors
    parameters = render_parameters(MODES)
    assert f"| `{KEYWORD}` | `{NAME}` | `{FLAG}` | 0..3 | `1.5` | all | Level of the probe" in parameters
    assert "redux, img2img, inpaint, canny, probe | Encoded images" in parameters


def test_client_keywords_include_parameter_and_mode() -> None:
    text = render_keywords(MODES)
    comment = "    #: Level of the probe, beside true_cfg_scale. 0..3; default: 1.5.\n"
    assert text.count(f"{comment}    {KEYWORD}: float | None\n") == len(MODES)
    module = keywords_module()
    assert module.ModeName.__args__[-1] == MODE.name
    assert KEYWORD in module.ProbeOptions.__annotations__
    assert KEYWORD in module.StreamOptions.__annotations__


def test_group_parameter_is_rendered_once_for_all_modes() -> None:
    groups = [*GROUPS]
    [place] = [index for index, group in enumerate(groups) if group.name == "sampling"]
    groups[place] = type(groups[place])("sampling", "Sampling", (*groups[place].parameters, PARAMETER))
    assert render_keywords(MODES, groups).count(f"    {KEYWORD}: float | None\n") == 1


def test_client_accepts_parameter_and_mode() -> None:
    for mode in MODES:
        assert keywords_of(mode)[KEYWORD] == PARAMETER
        assert stream_keywords_of(mode)[KEYWORD] == PARAMETER


def test_command_line_help_lists_parameter_and_mode() -> None:
    assert re.search(r"probe +probe images", make_parser(MODES).format_help())
    for mode in MODES:
        assert f"{FLAG} X Level of the probe, beside --true-cfg (0..3; default: 1.5)" in help_of(mode.name)


def test_command_line_sends_the_parameter() -> None:
    options = make_parser(MODES).parse_args(["probe", "cat.png", FLAG, "2.5"])
    assert keywords_from(options)[KEYWORD] == 2.5


def test_fake_server_accepts_parameter_and_mode() -> None:
    outputs = ("OUTPUT_IMAGE", "OUTPUT_SEED")
    for model in ("flux_redux", "flux_probe"):
        request = Request(model, {"IMAGE": image(), NAME: level(2)}, outputs)
        assert answer(request, ENSEMBLES).keys() == set(outputs)
    with pytest.raises(InvalidRequest, match=r"flux_probe: PROBE_LEVEL=4, expected 0\.\.3"):
        answer(Request("flux_probe", {"IMAGE": image(), NAME: level(4)}, outputs), ENSEMBLES)
    transport = FakeTransport(ensembles=ENSEMBLES)
    assert transport.is_ready("flux_probe", 1)
    mode = np.array([[MODE.name.encode()]], dtype=np.object_)
    stream = transport.stream(
        Request(FLUX_STREAM.name, {"MODE": mode, "IMAGE": image(), NAME: level(2)}, ("PROGRESS",)), 1, "1"
    )
    assert next(stream)["PROGRESS"].tolist() == [[0, 0, 50]]


def test_benchmarks_know_parameter_and_mode() -> None:
    assert {kind.mode for kind in mixed(MODES)} == {mode.name for mode in MODES}
    assert MODE.name in wanted_weights(MODES)
    [entry] = of_every_input(1, "test", Work(), "adapter", MODE.ensemble)
    assert entry[NAME]["shape"] == [1]


def test_backend_reads_every_parameter_of_its_models() -> None:
    """A declared parameter that no code uses would be accepted and ignored."""
    served = {tensor.name for model in models.MODELS for tensor in model.inputs if isinstance(tensor, Parameter)}
    used = {
        node.id if isinstance(node, ast.Name) else node.attr
        for file in (*(ROOT / "serving" / "flux_serving").rglob("*.py"), Path(seeds.__file__))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, (ast.Name, ast.Attribute))
    }
    assert served - used == set()
