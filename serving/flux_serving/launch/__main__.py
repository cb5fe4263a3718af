"""`scripts/serve`: start Triton and the gateway, say when they are ready, restart what dies, end both by a signal."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from flux_serving.contract.pbtxt import DEFAULT_GPUS, gpu_list
from flux_serving.errors import CannotStart
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import end_on_signals
from flux_serving.launch.server import ServerOptions
from flux_serving.launch.serving import Serving
from flux_serving.launch.supervisor import NEVER, RestartPolicy, ServiceFailed
from flux_serving.launch.tracing import ENDPOINT_VARIABLE, traces_url
from flux_serving.settings import (
    BASE_VARIABLE,
    CONTROLNET_VARIABLE,
    LORA_VARIABLE,
    REDUX_VARIABLE,
    VAE_VARIABLE,
    Checkpoints,
)

#: By the value of --restart.
RESTARTS = {"on-failure": RestartPolicy(), "never": NEVER}


def port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, expected 1..65535")
    return int(text)


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
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1")
    parser.add_argument("--http-port", type=port, default=8000, help="default: 8000")
    parser.add_argument("--grpc-port", type=port, default=8001, help="default: 8001")
    parser.add_argument("--metrics-port", type=port, default=8002, help="default: 8002")
    parser.add_argument("--gateway-port", type=port, help="serve REST there, too; default: none, GenServe's is 12411")
    parser.add_argument(
        "--exit-timeout",
        type=int,
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
    parser.add_argument("--model-repository", type=Path, default=Path("model_repository"))
    options = parser.parse_args()
    if options.gpus and options.profile != "gpu":
        parser.error("--gpus goes with --profile gpu")
    return options


def main() -> int:
    given = read_options()
    end_on_signals()
    try:
        options = ServerOptions(
            repository=given.model_repository,
            checkpoints=Checkpoints.from_environment(os.environ),
            profile=given.profile,
            gpus=given.gpus or DEFAULT_GPUS,
            host=given.host,
            http_port=given.http_port,
            grpc_port=given.grpc_port,
            metrics_port=given.metrics_port,
            exit_timeout_s=given.exit_timeout,
            traces_url=traces_url(os.environ),
        )
        urls = f"http {options.http_url}, grpc {options.grpc_url}"
        make_gateway = None
        if given.gateway_port:
            make_gateway = partial(
                Gateway, options.grpc_url, given.host, given.gateway_port, exit_timeout_s=given.exit_timeout
            )
            urls = f"REST {make_gateway().url}, {urls}"
        with Serving(options, make_gateway, RESTARTS[given.restart], say) as serving:
            serving.wait_until_ready()
            print(f"ready: {urls}", flush=True)
            serving.run()
    except (CannotStart, ServiceFailed) as error:
        say(str(error))
    return 1


def say(line: str) -> None:
    print(f"scripts/serve: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
