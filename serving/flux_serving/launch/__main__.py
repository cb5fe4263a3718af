"""`scripts/serve`: start Triton and the gateway, say when they are ready, restart what dies, end both by a signal."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flux_contract.environment import BASE_VARIABLE, CONTROLNET_VARIABLE, LORA_VARIABLE, REDUX_VARIABLE, VAE_VARIABLE
from flux_contract.errors import CannotStart
from flux_contract.models import FLUX_BASE
from flux_rendering.pbtxt import DEFAULT_GPUS, gpu_list
from flux_serving.launch.exposure import EXPOSE_FLAG, KEY_VARIABLE, RESTRICTED_APIS
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import end_on_signals
from flux_serving.launch.server import ServerOptions
from flux_serving.launch.serving import Serving
from flux_serving.launch.supervisor import NEVER, RestartPolicy, ServiceFailed
from flux_serving.launch.tracing import ENDPOINT_VARIABLE, traces_url
from flux_serving.launch.variables import unknown_variables
from flux_serving.settings import Checkpoints

#: By the value of --restart.
RESTARTS = {"on-failure": RestartPolicy(), "never": NEVER}
#: A larger number is probably a mistake, because each instance loads all weights.
MAX_CPU_INSTANCES = 64
#: One day. A larger number is probably a mistake.
MAX_EXIT_TIMEOUT_S = 86400


def up_to(most: int, unit: str = "") -> Callable[[str], int]:
    """Reads an integer from 1 to `most`, for argparse."""

    def read(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}, expected 1..{most}{unit}")
        return int(text)

    return read


port = up_to(65535)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/serve",
        description="Serve FLUX Redux on Triton.",
        epilog=f"{BASE_VARIABLE} and {REDUX_VARIABLE} name the checkpoints, in diffusers layout; optional are "
        f"{CONTROLNET_VARIABLE}, {VAE_VARIABLE}, and {LORA_VARIABLE}, a folder of adapters. Where "
        f"{ENDPOINT_VARIABLE} is set, every request is traced, and the spans go there.",
    )
    parser.add_argument("--profile", choices=("cpu", "gpu", "k8s"), default="cpu", help="default: cpu")
    parser.add_argument("--gpus", type=gpu_list, help="with --profile gpu; default: 7,8")
    parser.add_argument(
        "--cpu-instances",
        type=up_to(MAX_CPU_INSTANCES),
        metavar="NUMBER",
        help="instances of flux_base, each with its own copy of the weights, with --profile cpu; default: 1",
    )
    parser.add_argument("--gateway-port", type=port, help="serve REST there, too; default: none, GenServe's is 12411")
    parser.add_argument("--gateway-host", metavar="ADDRESS", help="of the REST gateway; default: 127.0.0.1")
    parser.add_argument(
        "--triton-host", default="127.0.0.1", metavar="ADDRESS", help="of Triton's three ports; default: 127.0.0.1"
    )
    parser.add_argument("--http-port", type=port, default=8000, help="Triton's; default: 8000")
    parser.add_argument("--grpc-port", type=port, default=8001, help="Triton's; default: 8001")
    parser.add_argument("--metrics-port", type=port, default=8002, help="Triton's; default: 8002")
    parser.add_argument(
        EXPOSE_FLAG,
        action="store_true",
        help="let other machines reach a Triton that has published remote vulnerabilities, as the embedded one has",
    )
    parser.add_argument(
        "--allow-api",
        action="append",
        default=[],
        choices=RESTRICTED_APIS,
        help=f"an API of Triton that needs no key, may be repeated; default: none. {KEY_VARIABLE} sets the key",
    )
    parser.add_argument(
        "--exit-timeout",
        type=up_to(MAX_EXIT_TIMEOUT_S, " seconds"),
        default=30,
        metavar="SECONDS",
        help="that running requests have at SIGTERM before they are lost; default: 30",
    )
    parser.add_argument(
        "--restart",
        choices=tuple(RESTARTS),
        default="on-failure",
        help="when Triton, a model's process or the gateway dies: start it again, at most "
        f"{RestartPolicy().attempts} times in a row, or end; default: on-failure",
    )
    parser.add_argument(
        "--model-repository", type=Path, default=Path("model_repository"), help="folder of the models (%(default)s)"
    )
    options = parser.parse_args()
    if options.gpus and options.profile != "gpu":
        parser.error("--gpus goes with --profile gpu")
    if options.cpu_instances and options.profile != "cpu":
        parser.error("--cpu-instances goes with --profile cpu")
    if options.gateway_host and not options.gateway_port:
        parser.error("--gateway-host goes with --gateway-port")
    check_ports(parser, options)
    return options


def check_ports(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with an error if two of the ports are the same, even on different addresses."""
    flags: dict[int, str] = {}
    for name in ("http_port", "grpc_port", "metrics_port", "gateway_port"):
        flag, number = f"--{name.replace('_', '-')}", getattr(options, name)
        if number in flags:
            parser.error(f"{flags[number]} and {flag} are both {number}, expected different ports")
        if number is not None:
            flags[number] = flag


def main() -> int:
    given = read_options()
    for line in unknown_variables(os.environ):
        say(f"warning: {line}")
    end_on_signals()
    try:
        options = ServerOptions(
            repository=given.model_repository,
            checkpoints=Checkpoints.from_environment(os.environ),
            profile=given.profile,
            gpus=given.gpus or DEFAULT_GPUS,
            cpu_instances=given.cpu_instances or FLUX_BASE.cpu_instances,
            host=given.triton_host,
            http_port=given.http_port,
            grpc_port=given.grpc_port,
            metrics_port=given.metrics_port,
            exit_timeout_s=given.exit_timeout,
            traces_url=traces_url(os.environ),
            allowed_apis=tuple(given.allow_api),
            api_key=os.environ.get(KEY_VARIABLE, ""),
            expose_vulnerable=given.expose_vulnerable_triton,
        )
        urls = f"http {options.http_url}, grpc {options.grpc_url}"
        make_gateway = None
        if given.gateway_port:
            make_gateway = partial(
                Gateway,
                options.grpc_url,
                given.gateway_host or "127.0.0.1",
                given.gateway_port,
                exit_timeout_s=given.exit_timeout,
            )
            urls = f"REST {make_gateway().url}, {urls}"
        with Serving(options, make_gateway, RESTARTS[given.restart], say) as serving:
            serving.wait_until_ready()
            for mode, reason in options.checkpoints.unserved_modes().items():
                say(f"{mode} is not served: {reason}")
            print(f"ready: {urls}", flush=True)
            serving.run()
    except (CannotStart, ServiceFailed) as error:
        say(str(error))
    return 1


def say(line: str) -> None:
    print(f"scripts/serve: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
