"""The command line: its commands, and what is wrong beyond a single option. `groups` has the options they share."""

from __future__ import annotations

import argparse
from pathlib import Path

from flux_client.cli import groups
from flux_client.cli.arguments import folder, numbers
from flux_client.opening import DEFAULT_URLS, STREAMING_PROTOCOL
from flux_client.retry import DEFAULT_TIMEOUT_S
from flux_contract import limits


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flux-client", description="Call FLUX on Triton.")
    # Of commands that have none of these.
    parser.set_defaults(pictures=[], reference=[], mask=None, previews=None, preview_steps=None, edges_out=None)
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument("--url", help="host:port of Triton (default: localhost and the protocol's port)")
    server.add_argument("--protocol", choices=list(DEFAULT_URLS), default="grpc")
    server.add_argument(
        "--timeout", type=float, default=DEFAULT_TIMEOUT_S, help="seconds for one request (%(default)g)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ready", parents=[server], help="wait until the server takes requests")
    _add_redux(commands.add_parser("redux", parents=[server], help="make variations of pictures"))
    _add_img2img(commands.add_parser("img2img", parents=[server], help="change pictures"))
    _add_text2img(commands.add_parser("text2img", parents=[server], help="make pictures of prompts"))
    _add_canny(commands.add_parser("canny", parents=[server], help="make pictures that follow the edges of others"))
    return parser


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exits with 2: options do not go together."""
    if options.previews is None and options.preview_steps is not None:
        parser.error("--preview-steps needs --previews FOLDER")
    if options.previews is not None and options.protocol != STREAMING_PROTOCOL:
        parser.error(f"--previews needs --protocol {STREAMING_PROTOCOL}")
    if options.command == "redux" and not (options.blend or options.sum):
        _check_single(parser, options, "--blend or --sum")
    elif options.command in ("img2img", "canny") and not options.reference:
        _check_single(parser, options, "--reference")


def _check_single(parser: argparse.ArgumentParser, options: argparse.Namespace, needed: str) -> None:
    """Values of several pictures are values of one request."""
    for name in ("strength", "image_strength", "detail", "mask", "start", "end"):
        value = getattr(options, name, None)
        if isinstance(value, list) and len(value) > 1:
            parser.error(f"several values of --{name.replace('_', '-')} need {needed}")


def _add_redux(redux: argparse.ArgumentParser) -> None:
    _add_pictures(redux)
    groups.add_outputs(redux, "variations of each picture")
    redux.add_argument("--blend", action="store_true", help="all pictures in one request: variations of their mixture")
    groups.add_sum(redux, "the same, by diffusers' weighted sum of their tokens")
    redux.add_argument("--strength", type=numbers, help="0: no picture, 0.5: half of the way, 1: all; S, or S1,S2,...")
    groups.add_condition(redux, "--image-fit", "--fit")
    groups.add_sampling(redux)


def _add_img2img(img2img: argparse.ArgumentParser) -> None:
    _add_pictures(img2img)
    groups.add_outputs(img2img, "pictures of each one to change")
    img2img.add_argument(
        "--strength",
        type=float,
        help="how much is to change, 0: nothing, 1: all; as diffusers' strength "
        f"(default: {limits.DEFAULT_IMG2IMG_STRENGTH:g})",
    )
    img2img.add_argument("--start-sigma", type=float, help="instead of it: the share of noise to begin with, 0..1")
    groups.add_size_fit(img2img)
    groups.add_references(img2img, "a picture that steers beside the one to change; again for each")
    groups.add_condition(img2img, "--image-fit")
    groups.add_sampling(img2img)


def _add_text2img(text2img: argparse.ArgumentParser) -> None:
    text2img.add_argument("prompts", nargs="+", metavar="TEXT")
    groups.add_outputs(text2img, "pictures of each prompt")
    groups.add_prompt_control(text2img)
    groups.add_sampling(text2img)


def _add_canny(canny: argparse.ArgumentParser) -> None:
    _add_pictures(canny)
    groups.add_outputs(canny, "pictures after each one's edges")
    canny.add_argument(
        "--edges-ready", action="store_const", const="edges", help="the pictures are edges themselves, white on black"
    )
    canny.add_argument(
        "--canny-low", type=float, help=f"gradient that continues an edge (default: {limits.DEFAULT_CANNY_LOW:g})"
    )
    canny.add_argument(
        "--canny-high", type=float, help=f"gradient that begins an edge (default: {limits.DEFAULT_CANNY_HIGH:g})"
    )
    canny.add_argument("--edges-out", type=folder, metavar="FOLDER", help="write the edges there: picture-edges.png")
    groups.add_size_fit(canny)
    canny.add_argument(
        "--control-scale", type=float, help=f"how strictly edges are followed, 0..{limits.MAX_CONTROL_SCALE:g}"
    )
    canny.add_argument("--control-start", type=float, help="fraction of the steps that are over when they come in")
    canny.add_argument("--control-end", type=float, help="fraction of the steps that are over when they go")
    groups.add_references(canny, "a picture that steers beside the edges; again for each")
    groups.add_condition(canny, "--image-fit")
    groups.add_sampling(canny)


def _add_pictures(command: argparse.ArgumentParser) -> None:
    command.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
