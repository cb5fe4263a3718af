"""The command line: a command for each mode, and checks of options against each other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flux_client.cli.mode_arguments import add_parameters, blends, required_options, takes_prompts
from flux_client.cli.values import folder
from flux_client.installed import __version__
from flux_client.opening import DEFAULT_URLS, STREAMING_PROTOCOL
from flux_client.retry import DEFAULT_TIMEOUT_S
from flux_contract.modes import MODES, Mode
from flux_contract.parameters import (
    CONTROL_KIND,
    IMAGE,
    IMAGE_BLEND,
    IMAGE_MASK,
    PREVIEW_PARAMETERS,
)


def make_parser(modes: Sequence[Mode] = MODES) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flux-client", description="Generate images with FLUX on Triton.")
    parser.add_argument("--version", action="version", version=f"flux-client {__version__}")
    # Defaults for commands without these options.
    missing = {CONTROL_KIND.python_name: None, IMAGE_BLEND.python_name: None, IMAGE_MASK.python_name: None}
    parser.set_defaults(images=[], reference=[], previews=None, edges_out=None, **missing)
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument(
        "--url", help="host:port of Triton, or several separated by commas (default: localhost and the protocol's port)"
    )
    server.add_argument("--protocol", choices=list(DEFAULT_URLS), default="grpc", help="(default: %(default)s)")
    server.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="X",
        help="Seconds for one request, retries included (default: %(default)g)",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ready", parents=[server], help="wait until the server accepts requests")
    for mode in modes:
        _add_mode(commands.add_parser(mode.name, parents=[server], help=mode.purpose), mode)
    return parser


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 if options contradict each other."""
    for parameter in PREVIEW_PARAMETERS:
        if options.previews is None and getattr(options, parameter.python_name, None) is not None:
            parser.error(f"{parameter.all_flags[-1]} requires --previews FOLDER")
    if options.previews is not None and options.protocol != STREAMING_PROTOCOL:
        parser.error(f"--previews requires --protocol {STREAMING_PROTOCOL}")
    if options.command == "ready":
        return
    if blends(options.mode):
        is_single, needed = not (options.blend or options.image_blend), "--blend or --sum"
    else:
        is_single, needed = not options.reference, "--reference"
    if is_single:
        _check_single(parser, options, needed)


def _check_single(parser: argparse.ArgumentParser, options: argparse.Namespace, needed: str) -> None:
    """Exit with 2 if a parameter per image has several values, but each request has one image."""
    for parameter in options.mode.options:
        value = getattr(options, parameter.python_name, None)
        if parameter.per_image and isinstance(value, list) and len(value) > 1:
            parser.error(f"several values of {parameter.all_flags[-1]} require {needed}")


def _add_mode(command: argparse.ArgumentParser, mode: Mode) -> None:
    command.set_defaults(mode=mode)
    if takes_prompts(mode):
        command.add_argument("prompts", nargs="+", metavar="TEXT", help="Prompt; each one is a request")
    else:
        command.add_argument(
            "images", nargs="+", type=Path, metavar="FILE", help="Image file, or a pipe such as /dev/stdin"
        )
    command.add_argument(
        "-o",
        "--out",
        type=folder,
        default=Path("out"),
        metavar="FOLDER",
        help=f"Write images to this folder, as name-{mode.name}-seed.png, without overwriting files "
        "(default: %(default)s)",
    )
    command.add_argument("-q", "--quiet", action="store_true", help="Do not show a progress bar")
    if blends(mode):
        command.add_argument("--blend", action="store_true", help="Combine all images in one request")
    elif IMAGE.name in {each.name for each in mode.parameters}:
        command.add_argument(
            "--reference",
            type=Path,
            action="append",
            default=[],
            metavar="FILE",
            help="Redux image that also guides the result; repeat the option for several",
        )
    for parameter in required_options(mode):
        command.add_argument(*parameter.all_flags, type=Path, required=True, metavar="FILE", help=parameter.help)
    add_parameters(command, mode)
