"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from flux_client.cli.arguments import DEFAULT_PREVIEW_STEPS, adapter, folder, integers, numbers
from flux_contract import limits


def add_outputs(command: argparse.ArgumentParser, made: str) -> None:
    """made: what --number counts."""
    command.add_argument("-o", "--out", type=folder, default=Path("out"), help="folder for what is made (%(default)s)")
    command.add_argument(
        "-n", "--number", type=int, help=f"{made}, 1..{limits.MAX_IMAGES} (default: as many as there are seeds)"
    )
    command.add_argument("--format", choices=limits.FORMATS)
    command.add_argument("--previews", type=folder, metavar="FOLDER", help="write previews there: name-image-step.jpg")
    command.add_argument(
        "--preview-steps",
        type=int,
        metavar="K",
        help=f"a preview after every K steps but the last, 0..{limits.MAX_STEPS}; 0: none "
        f"(default: {DEFAULT_PREVIEW_STEPS}, or half of the steps where these are few)",
    )
    command.add_argument("-q", "--quiet", action="store_true", help="no bar on stderr")


def add_sampling(command: argparse.ArgumentParser) -> None:
    command.add_argument("--height", type=int, help="pixels")
    command.add_argument("--width", type=int, help="pixels")
    command.add_argument("--steps", type=int, help=f"denoising steps, 1..{limits.MAX_STEPS}")
    command.add_argument("--guidance", type=float, help=f"distilled guidance, 0..{limits.MAX_GUIDANCE:g}")
    command.add_argument(
        "--true-cfg",
        type=float,
        help=f"classifier-free guidance away from --negative-prompt, 1..{limits.MAX_GUIDANCE:g}; 1: off",
    )
    command.add_argument("--seed", type=integers, help="seed of the first picture, or S1,S2,... for each; -1: random")
    command.add_argument(
        "--lora",
        type=adapter,
        action="append",
        default=[],
        metavar="NAME[:SCALE]",
        help="a LoRA adapter of the server's, and how much of it (1); again for each",
    )
    command.add_argument(
        "--priority", type=int, help=f"{limits.MIN_PRIORITY} background, 0 usual, {limits.MAX_PRIORITY} interactive"
    )


def add_prompt_control(command: argparse.ArgumentParser) -> None:
    command.add_argument("--negative-prompt", metavar="TEXT", help="what to move away from, by --true-cfg")
    command.add_argument("--prompt-strength", type=float, help="weight of the prompt")
    command.add_argument("--prompt-start", type=float, help="fraction of the steps that are over when it comes in")
    command.add_argument("--prompt-end", type=float, help="fraction of the steps that are over when it goes")


def add_condition(command: argparse.ArgumentParser, *fit: str) -> None:
    """What of the pictures counts, how much, and when. fit: names of the option for `image_fit`."""
    command.add_argument("--prompt", metavar="TEXT", help="text beside the pictures")
    command.add_argument("--image-strength", type=numbers, help=f"weight of the pictures, 0..{limits.MAX_STRENGTH:g}")
    command.add_argument("--detail", type=integers, help=f"tokens pooled into one along a side, 1..{limits.MAX_DETAIL}")
    command.add_argument("--detail-filter", choices=limits.DETAIL_FILTERS, help="how they are pooled")
    command.add_argument("--detail-weight", choices=limits.DETAIL_WEIGHTS, help="what a pooled token weighs")
    command.add_argument(
        "--mask", type=Path, action="append", help="white where the picture counts; again for each picture, or once"
    )
    command.add_argument("--crop", action="store_const", const=1, help="cut the pictures to their masks first")
    command.add_argument(*fit, choices=limits.FITS, help="how pictures that are no squares are seen")
    command.add_argument("--start", type=numbers, help="fraction of the steps that are over when the pictures come in")
    command.add_argument("--end", type=numbers, help="fraction of the steps that are over when they go")
    add_prompt_control(command)


def add_references(command: argparse.ArgumentParser, meaning: str) -> None:
    command.add_argument("--reference", type=Path, action="append", default=[], metavar="PICTURE", help=meaning)
    add_sum(command, "the pictures that steer as diffusers' weighted sum of their tokens")


def add_sum(command: argparse.ArgumentParser, meaning: str) -> None:
    command.add_argument("--sum", action="store_const", const="sum", help=meaning)


def add_size_fit(command: argparse.ArgumentParser) -> None:
    command.add_argument("--fit", choices=limits.SIZE_FITS, help="what becomes of a picture of another shape")
