"""`scripts/serve`: start Triton, say when it is ready, pass signals on, end with it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from flux_serving.contract.pbtxt import DEFAULT_GPUS
from flux_serving.errors import CannotStart
from flux_serving.launch.server import ServerOptions, TritonServer
from flux_serving.settings import BASE_VARIABLE, REDUX_VARIABLE, Checkpoints


def gpu_list(text: str) -> tuple[int, ...]:
    gpus = tuple(int(part) for part in text.split(",") if part.strip().isdecimal())
    if len(gpus) != len(text.split(",")) or len(set(gpus)) != len(gpus):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of GPU numbers like 7,8")
    return gpus


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/serve",
        description="Serve FLUX Redux on Triton.",
        epilog=f"{BASE_VARIABLE} and {REDUX_VARIABLE} name the checkpoints, in diffusers layout.",
    )
    parser.add_argument("--profile", choices=("cpu", "gpu", "k8s"), default="cpu", help="default: cpu")
    parser.add_argument("--gpus", type=gpu_list, default=DEFAULT_GPUS, help="for --profile gpu; default: 7,8")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument("--model-repository", type=Path, default=Path("model_repository"))
    return parser


def main() -> int:
    arguments = parser().parse_args()
    stopping = False

    def stop(number: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True
        server.signal(number)

    try:
        checkpoints = Checkpoints.from_environment(os.environ)
        server = TritonServer(
            ServerOptions(
                repository=arguments.model_repository,
                checkpoints=checkpoints,
                profile=arguments.profile,
                gpus=arguments.gpus,
                host=arguments.host,
                http_port=arguments.http_port,
                grpc_port=arguments.grpc_port,
                metrics_port=arguments.metrics_port,
            )
        )
        with server:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, stop)
            server.wait_until_ready()
            print(f"ready: http {server.http_url}, grpc {server.grpc_url}", flush=True)
            code = server.wait()
    except CannotStart as error:
        if stopping:
            return 0
        print(f"scripts/serve: {error}", file=sys.stderr)
        return 1
    return 0 if stopping else code


if __name__ == "__main__":
    sys.exit(main())
