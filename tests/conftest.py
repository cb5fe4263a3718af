"""Fixtures: two checkpoints, and a real Triton on each, started once per run."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import free_ports
from flux_serving.launch.server import ServerOptions, TritonServer
from flux_serving.settings import Checkpoints
from flux_tools.demo.folders import demo_checkpoints

if TYPE_CHECKING:
    from diffusers import FluxControlNetModel, FluxPipeline
    from playwright.sync_api import Browser, ConsoleMessage, Page
    from playwright.sync_api import Request as SentRequest

    from flux_serving.network.weights import BaseWeights

pytest_plugins = ["skips"]

ROOT = Path(__file__).resolve().parent.parent
DEMO = demo_checkpoints(ROOT / "checkpoints/demo")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--schedules", type=int, default=40, help="random schedules of the chaos test (soak: 1000)")
    parser.addoption("--device", default="cpu", help="where the engine of the unit tests computes, such as cuda")
    parser.addoption("--attack-seconds", type=float, default=3, help="how long each attack runs (soak: 20)")
    parser.addoption("--fault-stride", type=int, default=8, help="every how manyth call fails in test_faults (all: 1)")
    parser.addoption("--hostile-inputs", type=int, default=600, help="generated hostile inputs (soak: 20000)")
    parser.addoption("--soak-seconds", type=float, default=15, help="how long 50 clients ask the gateway (soak: 60)")
    parser.addoption("--stops", type=int, default=1, help="how often the server is stopped after traffic (soak: 50)")
    parser.addoption(
        "--soak-streams", type=int, default=40, help="streams of each kind of the memory test (soak: 4000)"
    )


def pytest_configure(config: pytest.Config) -> None:
    os.environ["FLUX_TEST_DEVICE"] = config.getoption("device")


def start_server(
    checkpoints: Checkpoints,
    log: Path,
    traces_url: str = "",
    repository: Path = ROOT / "model_repository",
    cpu_instances: int = 1,
) -> Iterator[TritonServer]:
    http, grpc, metrics = free_ports()
    options = ServerOptions(
        repository=repository,
        checkpoints=checkpoints,
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        traces_url=traces_url,
        cpu_instances=cpu_instances,
        api_key="key-of-the-tests",
    )
    with log.open("wb") as output:
        # Repeat a hung start once, as the launcher does.
        for is_last in (False, True):
            with TritonServer(options, output) as server:
                try:
                    server.wait_until_ready(180)
                except BaseException:
                    if server.is_hung() and not is_last:
                        continue
                    print(log.read_text(errors="replace")[-4000:])
                    raise
                yield server
                return


@pytest.fixture(scope="session")
def tiny_flux() -> FluxPipeline:
    from tiny import make_tiny_flux

    return make_tiny_flux()


@pytest.fixture(scope="session")
def controlnet() -> FluxControlNetModel:
    from tiny import make_tiny_controlnet

    return make_tiny_controlnet()


@pytest.fixture(scope="session")
def tiny_base(tiny_flux: FluxPipeline) -> BaseWeights:
    from tiny import weights_of

    return weights_of(tiny_flux)


@pytest.fixture(scope="session")
def random_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    from checkpoints import make_random_checkpoint

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_random_checkpoint(tmp_path_factory.mktemp("random-checkpoint"))


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    yield from start_server(DEMO, tmp_path_factory.mktemp("demo-server") / "triton.log")


@pytest.fixture(scope="session")
def gateway(demo_server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    from raw import wait_until_healthy

    (port,) = free_ports(1)
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with log.open("wb") as output, Gateway(demo_server.grpc_url, "127.0.0.1", port, output) as gateway:
        wait_until_healthy(gateway)
        yield gateway


@pytest.fixture(scope="session")
def random_server(random_checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    yield from start_server(random_checkpoints, tmp_path_factory.mktemp("random-server") / "triton.log")


@pytest.fixture
def mortal_server(tmp_path: Path) -> Iterator[TritonServer]:
    """A server that the test may kill."""
    yield from start_server(DEMO, tmp_path / "triton.log")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[{"width": 1440, "height": 900}, {"width": 390, "height": 844}], ids=["desktop", "phone"])
def page(browser: Browser, gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The open page. Fails if it logged an error to the console or sent a request to another host."""
    from playwright.sync_api import expect

    context = browser.new_context(viewport=request.param, locale="en-GB", permissions=["clipboard-read"])
    page = context.new_page()
    wrong: list[str] = []

    def log(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            wrong.append(message.text)

    def check(sent: SentRequest) -> None:
        if not sent.url.startswith((gateway.url, "blob:", "data:")):
            wrong.append(sent.url)

    page.on("console", log)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", check)
    page.goto(gateway.url)
    expect(page.locator("#run")).to_be_enabled(timeout=60_000)
    yield page
    context.close()
    # The browser itself logs rejected requests.
    assert [words for words in wrong if "Failed to load resource" not in words] == []
