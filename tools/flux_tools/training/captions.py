"""What the images are called: captions to train on, and the same words the other way round, which it never sees."""

from __future__ import annotations

import re

from flux_tools.demo.images import DemoImage


def plain(text: str) -> str:
    """Small letters, digits and single spaces."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def names(image: DemoImage) -> list[str]:
    """Its name and its short names, each once."""
    return list(dict.fromkeys(map(plain, (image.name, *image.short_names))))


def captions(image: DemoImage) -> list[str]:
    """`red apple`, `a red apple`, `red apple food fruit`, `food fruit`: what training picks from."""
    kind = plain(image.kind)
    return [text for name in names(image) for text in (name, _with_article(name), f"{name} {kind}")] + [kind]


def _with_article(name: str) -> str:
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def paraphrase(image: DemoImage) -> str:
    """The words of its name, the other way round: `sunglasses with face smiling`."""
    return " ".join(reversed(plain(image.name).split()))
