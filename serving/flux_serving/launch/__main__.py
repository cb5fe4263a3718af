"""`scripts/serve`: starts Triton and the gateway, reports when they are ready, restarts them, and stops on a signal."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from flux_contract.environment import BASE_VARIABLE, CONTROLNET_VARIABLE, LORA_VARIABLE, REDUX_VARIABLE, VAE_VARIABLE
from flux_contract.errors import CannotStart
from flux_contract.models import FLUX_BASE
from flux_rendering.pbtxt import DEFAULT_GPUS, gpu_list
from flux_serving.launch.arguments import check_ports, port, up_to
from flux_serving.launch.exposure import EXPOSE_FLAG, KEY_VARIABLE, RESTRICTED_APIS
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import end_on_signals
from flux_serving.launch.server import ServerOptions
from flux_serving.launch.serving import Serving
from flux_serving.launch.supervisor import NEVER, RestartPolicy, ServiceFailed
from flux_serving.launch.tracing import ENDPOINT_VARIABLE, traces_url
from flux_serving.launch.variables import unknown_variables
from flux_serving.settings import Checkpoints

#: Restart policies by value of --restart.
RESTARTS = {"on-failure": RestartPolicy(), "never": NEVER}
#: A larger number is probably a mistake, because each instance loads all weights.
MAX_CPU_INSTANCES = 64
#: One day. A larger number is probably a mistake.
MAX_EXIT_TIMEOUT_S = 86400
#: Note that is printed before Triton logs these errors.
CPU_NOTE = (
    "without a GPU, Triton logs errors that are harmless: CudaDriverHelper has not been initialized, unable to create "
    "stream, Failed to initialize NVML, DCGM unable to start"
)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/serve",
        description="Serve FLUX Redux on Triton.",
        epilog=f"The variables {BASE_VARIABLE} and {REDUX_VARIABLE} name the folders of the checkpoints, in diffusers "
        f"layout. {CONTROLNET_VARIABLE}, {VAE_VARIABLE} and {LORA_VARIABLE} (a folder of adapters) are optional. If "
        f"{ENDPOINT_VARIABLE} is set, every request is traced and the spans are sent there. Ctrl-C stops without "
        "waiting for requests sent to Triton directly; SIGTERM waits for all running requests.",
    )
    parser.add_argument(
        "--profile", choices=("cpu", "gpu", "k8s"), default="cpu", help="devices to serve on; default: cpu"
    )
    parser.add_argument("--gpus", type=gpu_list, help="GPUs to serve on, with --profile gpu; default: 7,8")
    parser.add_argument(
        "--cpu-instances",
        type=up_to(MAX_CPU_INSTANCES),
        metavar="NUMBER",
        help="instances of flux_base, with --profile cpu; each has its own copy of the weights; default: 1",
    )
    parser.add_argument(
        "--gateway-port", type=port, help="port of the REST gateway, such as 12411; default: no gateway"
    )
    parser.add_argument("--gateway-host", metavar="ADDRESS", help="address of the REST gateway; default: 127.0.0.1")
    parser.add_argument(
        "--triton-host", default="127.0.0.1", metavar="ADDRESS", help="address of Triton's ports; default: 127.0.0.1"
    )
    parser.add_argument("--http-port", type=port, default=8000, help="Triton's HTTP port; default: 8000")
    parser.add_argument("--grpc-port", type=port, default=8001, help="Triton's gRPC port; default: 8001")
    parser.add_argument("--metrics-port", type=port, default=8002, help="Triton's metrics port; default: 8002")
    parser.add_argument(
        EXPOSE_FLAG,
        action="store_true",
        help="let other machines reach a Triton with published remote vulnerabilities, such as the embedded one",
    )
    parser.add_argument(
        "--allow-api",
        action="append",
        default=[],
        choices=RESTRICTED_APIS,
        help="let clients use this restricted API of Triton without a key; may be repeated; default: none. "
        f"{KEY_VARIABLE} sets the key",
    )
    parser.add_argument(
        "--exit-timeout",
        type=up_to(MAX_EXIT_TIMEOUT_S, " seconds"),
        default=30,
        metavar="SECONDS",
        help="time that running requests have to complete after SIGTERM; default: 30",
    )
    parser.add_argument(
        "--restart",
        choices=tuple(RESTARTS),
        default="on-failure",
        help="whether to restart Triton or the gateway when it fails or a model's process dies, at most "
        f"{RestartPolicy().attempts} times in a row; default: on-failure",
    )
    parser.add_argument(
        "--model-repository", type=Path, default=Path("model_repository"), help="folder of the models (%(default)s)"
    )
    options = parser.parse_args()
    if options.gpus and options.profile != "gpu":
        parser.error("--gpus requires --profile gpu")
    if options.cpu_instances and options.profile != "cpu":
        parser.error("--cpu-instances requires --profile cpu")
    if options.gateway_host and not options.gateway_port:
        parser.error("--gateway-host requires --gateway-port")
    check_ports(parser, options)
    return options


def main() -> int:
    given = read_options()
    for line in unknown_variables(os.environ, has_gateway=given.gateway_port is not None):
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
        if given.profile == "cpu":
            say(CPU_NOTE)
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
