"""Captions of images for training, and paraphrases in reverse word order, which are not used for training."""

from __future__ import annotations

import re

from flux_tools.demo.images import DemoImage


def plain(text: str) -> str:
    """Reduce a text to lower-case letters, digits and single spaces."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def names(image: DemoImage) -> list[str]:
    """Return the image's name and short names, without duplicates."""
    return list(dict.fromkeys(map(plain, (image.name, *image.short_names))))


def captions(image: DemoImage) -> list[str]:
    """Return the captions for training: `red apple`, `a red apple`, `red apple food fruit`, `food fruit`, ..."""
    kind = plain(image.kind)
    return [text for name in names(image) for text in (name, _with_article(name), f"{name} {kind}")] + [kind]


def _with_article(name: str) -> str:
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def paraphrase(image: DemoImage) -> str:
    """Return the words of the image's name in reverse order: `sunglasses with face smiling`."""
    return " ".join(reversed(plain(image.name).split()))
