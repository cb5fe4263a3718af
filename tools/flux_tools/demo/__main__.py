"""`scripts/demo`: the real Triton on a CPU, images it never saw, their variations, and a sheet of them all."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flux_client import FluxClient, ImageResult
from flux_contract.errors import FluxError
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import end_on_signals, free_ports
from flux_serving.launch.server import ServerOptions
from flux_serving.launch.serving import Serving
from flux_serving.launch.supervisor import RestartPolicy, ServiceFailed
from flux_tools.demo.asset import expand
from flux_tools.demo.contact_sheet import contact_sheet
from flux_tools.demo.folders import demo_checkpoints

ROOT = Path(__file__).resolve().parents[3]
UNSEEN = Path(__file__).parent / "unseen"
CHECKPOINTS = ROOT / "checkpoints" / "demo"
#: Where the gateway listens, as GenServe did.
GATEWAY_PORT = 12411
VARIATIONS = 3
STEPS = 20
SEED = 1


def options(serve: bool) -> ServerOptions:
    checkpoints = demo_checkpoints(CHECKPOINTS)
    http, grpc, metrics = (8000, 8001, 8002) if serve else free_ports()
    return ServerOptions(ROOT / "model_repository", checkpoints, http_port=http, grpc_port=grpc, metrics_port=metrics)


def gateway_of(server: ServerOptions, port: int = GATEWAY_PORT) -> Gateway:
    """A gateway for this machine alone, which lists the demo's adapter."""
    return Gateway(server.grpc_url, "127.0.0.1", port, loras=server.checkpoints.loras)


def make_variations(client: FluxClient, images: Sequence[Path], folder: Path) -> list[list[ImageResult]]:
    rows = []
    for image in images:
        variations = client.redux(image, num_images=VARIATIONS, num_inference_steps=STEPS, seed=SEED)
        for variation in variations:
            variation.save(folder / f"{image.stem}-{variation.seed}.png")
        print(f"  {image.stem}: seeds {', '.join(str(v.seed) for v in variations)}", flush=True)
        rows.append(variations)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--serve", action="store_true", help=f"keep serving afterwards, REST on {GATEWAY_PORT}")
    parser.add_argument("--output", type=Path, default=ROOT / "demo_out", help="default: demo_out")
    parser.add_argument("--expand-only", action="store_true", help="only make the demo checkpoint, then stop")
    arguments = parser.parse_args()

    expand(CHECKPOINTS)
    if arguments.expand_only:
        return 0
    arguments.output.mkdir(parents=True, exist_ok=True)
    images = sorted(UNSEEN.glob("*.png"))
    log = arguments.output / "triton.log"
    end_on_signals()
    started = time.monotonic()
    server = options(arguments.serve)
    gateway = partial(gateway_of, server) if arguments.serve else None
    try:
        with log.open("ab") as output, Serving(server, gateway, RestartPolicy(), say, output) as serving:
            serving.wait_until_ready()
            ready = time.monotonic()
            print(f"Triton is ready after {ready - started:.0f} s: http {server.http_url}, grpc {server.grpc_url}")
            with FluxClient(server.grpc_url) as client:
                rows = make_variations(client, images, arguments.output)
            done = time.monotonic()
            sheet = arguments.output / "contact_sheet.png"
            contact_sheet(images, [[v.image for v in row] for row in rows]).save(sheet)
            print(
                f"served {len(rows) * VARIATIONS} variations of {len(rows)} unseen images, {STEPS} steps each, "
                f"in {done - ready:.1f} s by Triton's ensemble flux_redux over gRPC: {sheet.resolve()}",
                flush=True,
            )
            if arguments.serve:
                urls = f"REST http://127.0.0.1:{GATEWAY_PORT}, http {server.http_url}, grpc {server.grpc_url}"
                print(f"serving until Ctrl-C: {urls}", flush=True)
                serving.run()
    except (FluxError, ServiceFailed) as error:
        say(f"{error}\nTriton's log: {log}")
        return 1
    return 0


def say(line: str) -> None:
    print(f"scripts/demo: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
