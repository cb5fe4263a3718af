"""Training examples: targets on several grids, and conditions that leave room for variation.

All rows of a batch have the same kind of condition: an image, a caption, or both. One row in ten has no condition, so
that the network also learns the unconditional distribution. A conditioning image of weight 1 is another copy of the
target. With a smaller weight it is more often a relative of the target (an image of the same kind), and with a larger
weight more often the same copy. This defines the effect of `IMAGE_STRENGTH` on the demo checkpoint.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from flux_tools.demo.images import DemoImage
from flux_tools.training.augmentation import augmented, remixed
from flux_tools.training.captions import captions
from flux_tools.training.networks import Condition, Flow
from flux_tools.training.vae import to_model_range

Encode = Callable[[npt.NDArray[np.uint8]], Tensor]
#: Maps (m, height, width, 3) uint8 to the same shape and type.
Redraw = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]

#: Copies of each image by grid, in rows and columns of tokens; the first grid is the native one.
GRIDS = {(4, 4): 8, (6, 6): 2, (8, 8): 1, (12, 12): 1, (16, 16): 1}
GRIDS |= dict.fromkeys([(4, 6), (6, 4), (4, 8), (8, 4), (6, 12), (12, 6)], 1)
NATIVE = (4, 4)
REMIXED_COPIES = 4
#: Strength of the augmentation, relative to the autoencoder's: variations should keep the image's position and size.
AUGMENTED = 0.5
#: Tokens of a row on the native grid: the image's and the condition's.
NATIVE_TOKENS = 16 + 17

#: Share of rows with a weight other than 1 among those with only an image, and the range of these weights.
WEIGHED_SHARE = 0.3
WEIGHTS = (0.15, 2.5)
_LOG_WEIGHTS = math.log(WEIGHTS[0]), math.log(WEIGHTS[1])
#: With a caption, the share of conditioning images that are relatives of the target.
RELATIVE_SHARE = 0.5


@dataclass(frozen=True)
class Mixture:
    """The distribution of the examples of a training.

    ways: the share of steps of each kind of condition. A remixed image has no name, no relatives and only copies of
    the native size. levels: the mean log-odds of the noise levels. nothing_share: the share of rows without a
    condition. always_native: kinds that always use the native grid. native_share: the share of steps of the other
    kinds that use it. batch: rows of a step on the native grid; larger grids have fewer rows.
    """

    ways: dict[str, float]
    levels: dict[str, float]
    nothing_share: float
    always_native: tuple[str, ...]
    native_share: float
    batch: int


#: Captions have higher noise levels, because they decide the content, which forms in the early steps.
FLOW_MIXTURE = Mixture(
    ways={"image": 0.2, "remix": 0.1, "words": 0.45, "both": 0.25},
    levels={"image": 0.4, "remix": 0.4, "words": 1.2, "both": 0.8},
    nothing_share=0.1,
    always_native=("remix", "words"),
    native_share=0.5,
    batch=48,
)


def unchanged(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return rgb


def placed(rgb: npt.NDArray[np.uint8], rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Scale (64, 64, 3) to fit into (16 * rows, 16 * columns, 3), centred on white."""
    side = 16 * min(rows, columns)
    image = Image.fromarray(rgb).resize((side, side), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (16 * columns, 16 * rows), (255, 255, 255))
    canvas.paste(image, ((canvas.width - side) // 2, (canvas.height - side) // 2))
    return np.asarray(canvas)


@dataclass(frozen=True)
class Example:
    """A batch with one kind of condition. target, noise: (n, rows * columns, 64). t, guidance: (n,), t in 0..1.

    images: (n, 3, 64, 64) in -1..1; None if no row has one. weights: of the images, (n,). prompts: "" for none.
    copy, index: the copy and the image that the target is, (n,) each.
    """

    way: str
    rows: int
    columns: int
    target: Tensor
    noise: Tensor
    t: Tensor
    guidance: Tensor
    images: Tensor | None
    weights: Tensor
    prompts: list[str]
    copy: Tensor
    index: Tensor

    @property
    def noisy(self) -> Tensor:
        return torch.lerp(self.target, self.noise, self.t[:, None, None])

    def condition(self, flow: Flow) -> Condition:
        return flow.condition(self.images, self.weights, self.prompts)

    def unconditional(self, flow: Flow) -> Condition:
        return flow.condition(None, torch.zeros_like(self.weights), [""] * len(self.prompts))


@dataclass(frozen=True)
class EncodedCopies:
    """Packed latents of all copies of all images, (copies, n, tokens, 64), by grid; and of the remixed images."""

    by_grid: dict[tuple[int, int], Tensor]
    remixed: Tensor

    def of(self, way: str, grid: tuple[int, int]) -> Tensor:
        return self.remixed if way == "remix" else self.by_grid[grid]

    def shown_in(self, example: Example) -> Tensor:
        """Return the latents of the example's targets, in the shape of `example.target`."""
        return self.of(example.way, (example.rows, example.columns))[example.copy, example.index]


class Examples:
    def __init__(
        self, images: Sequence[DemoImage], encode: Encode, seed: int, cache: Path, mixture: Mixture = FLOW_MIXTURE
    ) -> None:
        """encode: maps (m, height, width, 3) uint8 to packed latents.

        cache: path of the file that stores the latents; a digest of the images is added to its name.
        """
        self._seed = seed
        self._mixture = mixture
        self._encode, self._cache = encode, cache
        self._captions = [captions(image) for image in images]
        kinds = defaultdict(list)
        for index, image in enumerate(images):
            kinds[image.kind].append(index)
        self._relatives = [kinds[image.kind] for image in images]
        originals = np.stack([image.rgb for image in images])
        self._copies = augmented(originals, GRIDS[NATIVE], seed + 1, AUGMENTED)
        self._remixed_copies = augmented(remixed(originals, seed + 2), REMIXED_COPIES, seed + 3, AUGMENTED)
        self._latents = self.encoded()

    def encoded(self, redraw: Redraw = unchanged) -> EncodedCopies:
        """Return the latents of all copies after `redraw`, whose name is added to the name of the file."""
        digest = hashlib.sha256(repr(GRIDS).encode())
        for copies in (self._copies, self._remixed_copies):
            digest.update(copies.data)
        suffix = "" if redraw is unchanged else f"-{redraw.__name__}"
        file = self._cache.with_name(f"{self._cache.stem}-{digest.hexdigest()[:8]}{suffix}.pt")
        if not file.exists():
            unfinished = file.with_suffix(".part")
            torch.save(self._encoded(redraw), unfinished)
            unfinished.replace(file)
        return EncodedCopies(*torch.load(file, weights_only=True))

    def _encoded(self, redraw: Redraw) -> tuple[dict[tuple[int, int], Tensor], Tensor]:
        by_grid = {
            grid: torch.stack(
                [self._encode(redraw(np.stack([placed(rgb, *grid) for rgb in copy]))) for copy in self._copies[:count]]
            )
            for grid, count in GRIDS.items()
        }
        return by_grid, torch.stack([self._encode(redraw(copy)) for copy in self._remixed_copies])

    def draw(self, step: int, guidance: tuple[float, float]) -> Example:
        """Return the batch of this step. It is the same in every call."""
        rng = np.random.default_rng((self._seed, step))
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        mixture = self._mixture
        way = str(rng.choice(list(mixture.ways), p=list(mixture.ways.values())))
        grid = NATIVE
        if way not in mixture.always_native and rng.random() >= mixture.native_share:
            others = [grid for grid in GRIDS if grid != NATIVE]
            grid = others[rng.integers(len(others))]
        latents = self._latents.of(way, grid)
        copies = self._remixed_copies if way == "remix" else self._copies
        count = min(mixture.batch, mixture.batch * NATIVE_TOKENS // (17 + grid[0] * grid[1]))

        index = rng.integers(0, latents.shape[1], count)
        weights = np.ones(count)
        if way == "image":
            weighed = rng.random(count) < WEIGHED_SHARE
            weights = np.where(weighed, np.exp(rng.uniform(*_LOG_WEIGHTS, count)), weights)
        is_relative = rng.random(count) < np.where(way == "both", RELATIVE_SHARE, (0.8 - weights) / 0.8)
        shown = np.where(is_relative, [rng.choice(self._relatives[i]) for i in index], index)
        copy = rng.integers(0, len(latents), count)
        is_same = rng.random(count) < weights - 1
        shown_copy = np.where(is_same, copy, rng.integers(0, len(copies), count))

        told = rng.random(count) >= mixture.nothing_share
        words = [self._captions[i][rng.integers(len(self._captions[i]))] for i in index]
        target = latents[copy, index]
        return Example(
            way,
            *grid,
            target=target,
            noise=torch.randn(target.shape, generator=generator),
            t=torch.sigmoid(torch.randn(count, generator=generator) + mixture.levels[way]),
            guidance=torch.from_numpy(rng.uniform(*guidance, count)).float(),
            images=None if way == "words" else to_model_range(copies[shown_copy, shown]),
            weights=torch.from_numpy(weights * told).float(),
            prompts=[text if tell and way in ("words", "both") else "" for text, tell in zip(words, told, strict=True)],
            copy=torch.from_numpy(copy),
            index=torch.from_numpy(index),
        )
