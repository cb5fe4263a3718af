"""The demo's images: Noto emoji, 64x64, on white. No gender variant of a held-out image is in the training data.

Source: the npm package `emoji-datasource-google`, version 16.0.0 (MIT); the drawings are Google's Noto Emoji
(Apache License 2.0).
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

PACKAGE = "emoji-datasource-google@16.0.0"
SIZE = 64
HELD_OUT_SHARE = 0.11

# Code points that `family_of` ignores: the gender signs, the joiner and the variation selector.
_SIBLING_MARKS = {"2640", "2642", "200D", "FE0F"}
_PERSONS = {"1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2", "1F467": "1F9D2"}


@dataclass(frozen=True)
class DemoImage:
    """One emoji. rgb: (64, 64, 3) uint8 on white. family: the same for all gender variants.

    name, short_names: in lower case. kind: Unicode's subcategory, such as `food-fruit`.
    """

    name: str
    code: str
    family: str
    rgb: npt.NDArray[np.uint8]
    short_names: tuple[str, ...] = ()
    kind: str = ""


def family_of(code: str) -> str:
    """Return the code points without gender: the same for `1F469-200D-1F692` and `1F468-200D-1F692`."""
    return "-".join(_PERSONS.get(part, part) for part in code.split("-") if part not in _SIBLING_MARKS)


def on_white(encoded: bytes) -> npt.NDArray[np.uint8]:
    """Decode a PNG with transparency. Returns (64, 64, 3) uint8."""
    rgba = Image.open(io.BytesIO(encoded)).convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))


def fetch_package(folder: Path) -> Path:
    """Return the path of the package's tarball in this folder. Downloads it with npm if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    tarball = folder / (PACKAGE.replace("@", "-") + ".tgz")
    if not tarball.exists():
        subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return tarball


def load_images(package: Path) -> list[DemoImage]:
    """Read the images of the package's tarball, without variants of skin tone."""
    with tarfile.open(package) as tar:
        files = {m.name: m for m in tar.getmembers()}
        table = json.loads(_read(tar, files["package/emoji.json"]))
        images = []
        for row in sorted(table, key=lambda row: row["unified"]):
            member = files.get(f"package/img/google/64/{row['image']}")
            if row["has_img_google"] and row["category"] != "Component" and member is not None:
                code = row["unified"]
                rgb = on_white(_read(tar, member))
                short_names = tuple(row["short_names"])
                name = row["name"].lower()
                images.append(DemoImage(name, code, family_of(code), rgb, short_names, row["subcategory"]))
    return images


def is_held_out(image: DemoImage) -> bool:
    """Whether the image is held out. A hash of its family decides, so families are not divided."""
    digest = hashlib.sha256(f"flux-triton {image.family}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < HELD_OUT_SHARE


def split(images: list[DemoImage]) -> tuple[list[DemoImage], list[DemoImage]]:
    """Return (training images, held-out images).

    A training image with the same pixels as a held-out image is in neither.
    """
    held_out = [p for p in images if is_held_out(p)]
    drawn = {p.rgb.tobytes() for p in held_out}
    return [p for p in images if not is_held_out(p) and p.rgb.tobytes() not in drawn], held_out


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, member.name
    return file.read()
