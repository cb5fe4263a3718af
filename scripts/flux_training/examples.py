"""What a step of training sees: targets on many grids, and conditions that leave room for variation.

Every row of a step is told of its target in the same way: by a picture, by words, or by both; one in ten is told
nothing, so that the network also knows what to draw then. A picture that weighs 1 is another copy of the target. The
less it weighs, the more often the target is only a relative of it, and the more it weighs, the more often the very
same copy: this is what `IMAGE_STRENGTH` means to the demo.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flux_demo.pictures import Picture
from flux_training.augmentation import augmented, remixed
from flux_training.captions import captions
from flux_training.networks import Condition, Flow
from flux_training.vae import to_model_range

Encode = Callable[[np.ndarray], Tensor]
#: Of the copies by grid, and of the remixed ones.
EncodedCopies = tuple[dict[tuple[int, int], Tensor], Tensor]

#: Image tokens, rows x columns, and copies of each picture at that size; the first is the native one.
GRIDS = {(4, 4): 8, (6, 6): 2, (8, 8): 1, (12, 12): 1, (16, 16): 1}
GRIDS |= dict.fromkeys([(4, 6), (6, 4), (4, 8), (8, 4), (6, 12), (12, 6)], 1)
NATIVE = (4, 4)
REMIXED_COPIES = 4
#: How much, of what the autoencoder saw: a variation's place and size should stay near its picture's.
AUGMENTED = 0.5
#: The share of steps on the native grid, of those that may be on another.
NATIVE_SHARE = 0.5
#: Ways that are always on it: a remixed picture, which has no copies of other sizes, and words alone.
ALWAYS_NATIVE = ("remix", "words")
#: Rows of a step at most: as many as its tokens allow.
BATCH = 48
MOST_TOKENS = 48 * 33

#: What tells of the target, and in what share of steps. A remixed picture has no name and no relatives.
WAYS = {"picture": 0.2, "remix": 0.1, "words": 0.45, "both": 0.25}
NOTHING_SHARE = 0.1
#: Where the noise levels lie, by their log-odds: words decide what it will be, which is early.
LEVELS = {"picture": 0.4, "remix": 0.4, "words": 1.2, "both": 0.8}
#: Of pictures alone, the share that weighs something else than 1, and what then.
WEIGHED_SHARE = 0.3
WEIGHTS = (0.15, 2.5)
#: Beside words, the share of pictures that are a relative of the target.
RELATIVE_SHARE = 0.5


def placed(rgb: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(64, 64, 3) to (16 * rows, 16 * columns, 3): as large as fits, in the middle, on white."""
    side = 16 * min(rows, columns)
    picture = Image.fromarray(rgb).resize((side, side), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (16 * columns, 16 * rows), (255, 255, 255))
    canvas.paste(picture, ((canvas.width - side) // 2, (canvas.height - side) // 2))
    return np.asarray(canvas)


@dataclass(frozen=True)
class Example:
    """A batch, all of which is told in one way. target, noise: (n, rows * columns, 64). t, guidance: (n,), t in 0..1.

    pictures: (n, 3, 64, 64) in -1..1, of these weights, (n,); None where no row has one. prompts: "" for none.
    """

    way: str
    rows: int
    columns: int
    target: Tensor
    noise: Tensor
    t: Tensor
    guidance: Tensor
    pictures: Tensor | None
    weights: Tensor
    prompts: list[str]

    @property
    def noisy(self) -> Tensor:
        return torch.lerp(self.target, self.noise, self.t[:, None, None])

    def condition(self, flow: Flow) -> Condition:
        return flow.condition(self.pictures, self.weights, self.prompts)

    def unconditional(self, flow: Flow) -> Condition:
        return flow.condition(None, torch.zeros_like(self.weights), [""] * len(self.prompts))


class Examples:
    def __init__(self, pictures: Sequence[Picture], encode: Encode, seed: int, cache: Path) -> None:
        """encode: (m, height, width, 3) uint8 to packed latents, which a file keeps for the next time.

        cache: its path, to whose name the pictures add theirs.
        """
        self._seed = seed
        self._captions = [captions(picture) for picture in pictures]
        kinds = defaultdict(list)
        for index, picture in enumerate(pictures):
            kinds[picture.kind].append(index)
        self._relatives = [kinds[picture.kind] for picture in pictures]
        originals = np.stack([picture.rgb for picture in pictures])
        self._copies = augmented(originals, GRIDS[NATIVE], seed + 1, AUGMENTED)
        self._remixed_copies = augmented(remixed(originals, seed + 2), REMIXED_COPIES, seed + 3, AUGMENTED)
        self._latents, self._remixed_latents = self._cached(encode, cache)

    def _cached(self, encode: Encode, cache: Path) -> EncodedCopies:
        digest = hashlib.sha256(repr(GRIDS).encode())
        for copies in (self._copies, self._remixed_copies):
            digest.update(copies)
        file = cache.with_name(f"{cache.stem}-{digest.hexdigest()[:8]}.pt")
        if not file.exists():
            unfinished = file.with_suffix(".part")
            torch.save(self._encoded(encode), unfinished)
            unfinished.replace(file)
        latents: EncodedCopies = torch.load(file, weights_only=True)
        return latents

    def _encoded(self, encode: Encode) -> EncodedCopies:
        latents = {
            grid: torch.stack([encode(np.stack([placed(rgb, *grid) for rgb in copy])) for copy in self._copies[:count]])
            for grid, count in GRIDS.items()
        }
        return latents, torch.stack([encode(copy) for copy in self._remixed_copies])

    def draw(self, step: int, guidance: tuple[float, float]) -> Example:
        """The batch of this step: the same at every call."""
        rng = np.random.default_rng((self._seed, step))
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        way = str(rng.choice(list(WAYS), p=list(WAYS.values())))
        grid = NATIVE
        if way not in ALWAYS_NATIVE and rng.random() >= NATIVE_SHARE:
            others = [grid for grid in GRIDS if grid != NATIVE]
            grid = others[rng.integers(len(others))]
        latents = self._remixed_latents if way == "remix" else self._latents[grid]
        copies = self._remixed_copies if way == "remix" else self._copies
        count = min(BATCH, MOST_TOKENS // (17 + grid[0] * grid[1]))

        index = rng.integers(0, latents.shape[1], count)
        weights = np.ones(count)
        if way == "picture":
            weighed = rng.random(count) < WEIGHED_SHARE
            weights = np.where(weighed, np.exp(rng.uniform(*np.log(WEIGHTS), count)), weights)
        is_relative = rng.random(count) < np.where(way == "both", RELATIVE_SHARE, (0.8 - weights) / 0.8)
        shown = np.where(is_relative, [rng.choice(self._relatives[i]) for i in index], index)
        copy = rng.integers(0, len(latents), count)
        is_same = rng.random(count) < weights - 1
        shown_copy = np.where(is_same, copy, rng.integers(0, len(copies), count))

        told = rng.random(count) >= NOTHING_SHARE
        words = [self._captions[i][rng.integers(len(self._captions[i]))] for i in index]
        target = latents[torch.from_numpy(copy), torch.from_numpy(index)]
        return Example(
            way,
            *grid,
            target=target,
            noise=torch.randn(target.shape, generator=generator),
            t=torch.sigmoid(torch.randn(count, generator=generator) + LEVELS[way]),
            guidance=torch.from_numpy(rng.uniform(*guidance, count)).float(),
            pictures=None if way == "words" else to_model_range(copies[shown_copy, shown]),
            weights=torch.from_numpy(weights * told).float(),
            prompts=[text if tell and way in ("words", "both") else "" for text, tell in zip(words, told, strict=True)],
        )
