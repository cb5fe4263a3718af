"""The demo: starts Triton on a CPU, generates variations of images that it was not trained on, and writes a sheet."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flux_client import FluxClient, ImageResult
from flux_contract.errors import FluxError
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import free_ports
from flux_serving.launch.server import ServerOptions
from flux_serving.launch.serving import Serving
from flux_serving.launch.supervisor import RestartPolicy, ServiceFailed
from flux_tools.demo.asset import expand
from flux_tools.demo.contact_sheet import contact_sheet
from flux_tools.demo.folders import demo_checkpoints
from flux_tools.demo.options import HOST, ROOT, say
from flux_tools.demo.progress import Phase, Progress

UNSEEN = Path(__file__).parent / "unseen"
CHECKPOINTS = ROOT / "checkpoints" / "demo"
VARIATIONS = 3
STEPS = 20
SEED = 1


def server_options(http: int | None = None, grpc: int | None = None, metrics: int | None = None) -> ServerOptions:
    """Return a server's options for the demo checkpoint. A port that is None is replaced by a free one."""
    http, grpc, metrics = (given or free for given, free in zip((http, grpc, metrics), free_ports(), strict=True))
    checkpoints = demo_checkpoints(CHECKPOINTS)
    return ServerOptions(
        ROOT / "model_repository", checkpoints, host=HOST, http_port=http, grpc_port=grpc, metrics_port=metrics
    )


def gateway_of(server: ServerOptions, port: int) -> Gateway:
    """Return a gateway on loopback that lists the demo's adapter."""
    return Gateway(server.grpc_url, HOST, port, loras=server.checkpoints.loras)


def make_variations(client: FluxClient, images: Sequence[Path], progress: Progress) -> list[list[ImageResult]]:
    """Generate the variations of each image, and write them to the folder `progress.output`."""
    rows = []
    for image in images:
        variations = client.redux(image, num_images=VARIATIONS, num_inference_steps=STEPS, seed=SEED)
        for variation in variations:
            variation.save(progress.output / f"{image.stem}-{variation.seed}.png")
            progress.written += 1
        print(f"  {image.stem}: seeds {', '.join(str(v.seed) for v in variations)}", flush=True)
        rows.append(variations)
    return rows


def run(options: argparse.Namespace, progress: Progress) -> int:
    """Run the demo, and update `progress` meanwhile. Returns the exit status. Raises SystemExit: a signal arrived."""
    expand(CHECKPOINTS)
    if options.expand_only:
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    log = options.output / "triton.log"
    server = server_options(options.http_port, options.grpc_port, options.metrics_port)
    gateway = partial(gateway_of, server, options.gateway_port) if options.serve else None
    progress.phase = Phase.STARTING
    is_ending = False

    def say_until_ending(line: str) -> None:
        # A demo that was not serving ends without the launcher's lines on running requests.
        if not is_ending or progress.phase is Phase.SERVING:
            say(line)

    try:
        with log.open("ab") as output, Serving(server, gateway, RestartPolicy(), say_until_ending, output) as serving:
            try:
                _use(serving, server, options, progress)
            finally:
                is_ending = True
    except (FluxError, ServiceFailed) as error:
        say(f"{error}\nTriton's log: {log}")
        return 1
    return 0


def _use(serving: Serving, server: ServerOptions, options: argparse.Namespace, progress: Progress) -> None:
    """Generate the variations and the contact sheet; with --serve, then serve until a signal."""
    started = time.monotonic()
    serving.wait_until_ready()
    ready = time.monotonic()
    print(f"Triton is ready after {ready - started:.0f} s: http {server.http_url}, grpc {server.grpc_url}", flush=True)
    progress.phase = Phase.GENERATING
    images = sorted(UNSEEN.glob("*.png"))
    with FluxClient(server.grpc_url) as client:
        rows = make_variations(client, images, progress)
    duration_s = time.monotonic() - ready
    sheet = options.output / "contact_sheet.png"
    contact_sheet(images, [[v.image for v in row] for row in rows]).save(sheet)
    print(
        f"generated {len(rows) * VARIATIONS} variations of {len(rows)} unseen images, {STEPS} steps each, "
        f"in {duration_s:.1f} s with Triton's ensemble flux_redux over gRPC: {sheet.resolve()}",
        flush=True,
    )
    if not options.serve:
        progress.phase = Phase.STOPPING
        return
    progress.phase = Phase.SERVING
    urls = f"REST http://{HOST}:{options.gateway_port}, http {server.http_url}, grpc {server.grpc_url}"
    print(f"serving until Ctrl-C: {urls}", flush=True)
    serving.run()
