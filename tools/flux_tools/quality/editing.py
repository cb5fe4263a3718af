"""Measurements of docs/editing.md: the modes other than Redux, on the demo checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from flux_client import FluxClient
from flux_tools.documents import table
from flux_tools.quality.changing import changed, prompted, sigmas
from flux_tools.quality.colours import chroma, is_of
from flux_tools.quality.edge_likeness import edges_of, mean_f1
from flux_tools.quality.gallery import Finding, Gallery, spread, strips
from flux_tools.quality.inpainting import inpainted
from flux_tools.quality.likeness import Bytes, between
from flux_tools.quality.sheet import sheet
from flux_tools.quality.studio import Ask, drawn
from flux_tools.quality.words import Census

#: Prompt, negative prompt, and the colour that the negative prompt names.
WANTED, AGAINST, COLOUR = "heart", "red", "red"
CFG_SCALES = (1.0, 1.25, 1.5, 2.0, 4.0)
CONTROL_SCALES = (0.0, 0.5, 1.0, 1.5)
CONTROL_SIDES = (64, 128)
LORA, LORA_SCALES = "greyscale", (0.0, 0.25, 0.5, 0.75, 1.0)


def negative(client: FluxClient, gallery: Gallery) -> Finding:
    """Does an image move away from the negative prompt?"""
    census = Census([*gallery.trained_on, *gallery.held_out])
    columns, shown = [], []
    for scale in CFG_SCALES:
        guided = {"negative_prompt": AGAINST, "true_cfg_scale": scale} if scale > 1 else {}
        asks = [Ask((), {"prompt": WANTED, "seed": seed} | guided, "text2img") for seed in range(64)]
        images = drawn(client, asks)
        red = np.mean([is_of(image, COLOUR) for image in images])
        share, _ = census.share(images, [WANTED] * len(images))
        columns.append((f"{red:.0%}", f"{share:.0%}"))
        shown.append(images)
    of_red, of_kind = zip(*columns, strict=True)
    head = [f"{scale:g}" for scale in CFG_SCALES]
    rows = [["red hearts", *of_red], ["nearest neighbour is a heart", *of_kind]]
    label = f"`TRUE_CFG_SCALE`; 64 images, prompt `{WANTED}`, negative prompt `{AGAINST}`"
    return Finding(table([label, *head], rows), sheet(head, strips(*shown)))


def edges(client: FluxClient, gallery: Gallery) -> Finding:
    """Do generated images follow the control edges?"""
    sources = gallery.some(100)
    names = [gallery.held_out[index].name for index in spread(len(gallery.held_out), 100)]
    rows, sheets = [], []
    for side in CONTROL_SIDES:
        asked, shown = _along_edges(client, sources, names, side)
        # The edges of another image show what any two edge maps have in common.
        found = [np.roll(asked, 1, axis=0), *map(edges_of, shown)]
        rows += [
            [f"{side}x{side}, {distance} px", *(f"{mean_f1(asked, drawing, distance):.2f}" for drawing in found)]
            for distance in (2, 1)
        ]
        sheets.append(strips(sources, np.repeat(asked[..., None], 3, axis=-1), *shown))
    head = ["another image", "`text2img`", *(f"{scale:g}" for scale in CONTROL_SCALES)]
    return Finding(
        table(["F1 of control edges and generated edges; `CONTROL_SCALE`", *head], rows),
        sheet(
            ["source", "its edges", "text2img", *(f"scale {scale:g}" for scale in CONTROL_SCALES)],
            sheets[0],
            [names[i] for i in spread(len(names))],
        ),
    )


def _along_edges(client: FluxClient, sources: Bytes, names: Sequence[str], side: int) -> tuple[Bytes, list[Bytes]]:
    """Return the control edges, (n, side, side), and the images without control and at each of CONTROL_SCALES."""
    size: dict[str, Any] = {"height": side, "width": side}
    asked = np.stack([np.asarray(client.edges(source, **size).convert("L")) for source in sources])
    prompts = [{"prompt": name, "seed": seed, **size} for seed, name in enumerate(names)]
    shown = [drawn(client, [Ask((), parameters, "text2img") for parameters in prompts])]
    for scale in CONTROL_SCALES:
        along = [
            parameters | {"control_image": source, "control_scale": scale}
            for parameters, source in zip(prompts, sources, strict=True)
        ]
        shown.append(drawn(client, [Ask((), parameters, "canny") for parameters in along]))
    return asked, shown


def adapted(client: FluxClient, gallery: Gallery) -> Finding:
    """Does an adapter's scale control the strength of its effect?"""
    sources = gallery.some(30)
    shown = []
    for scale in LORA_SCALES:
        parameters = {"lora": LORA, "lora_scale": scale}
        shown.append(drawn(client, [Ask((source,), parameters) for source in sources]))
    plain, *_ = shown
    grey = np.stack([_greyscale(image) for image in plain])
    head = [f"{scale:g}" for scale in LORA_SCALES]
    rows = [
        ["mean chroma, Delta E from grey", *(f"{chroma(images):.1f}" for images in shown)],
        [
            "distance to the variation without the adapter in greyscale",
            *(f"{between(images, grey):.1f}" for images in shown),
        ],
    ]
    return Finding(
        table([f"`LORA` `{LORA}`, `LORA_SCALE`", *head], rows), sheet(["source", *head], strips(sources, *shown))
    )


def _greyscale(image: Bytes) -> Bytes:
    """Return the luminance (ITU-R 601) in three equal channels, as in the training of the adapter."""
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))


EDITING: dict[str, Callable[[FluxClient, Gallery], Finding]] = {
    "changed": changed,
    "sigmas": sigmas,
    "prompted": prompted,
    "inpainted": inpainted,
    "negative": negative,
    "edges": edges,
    "adapted": adapted,
}
