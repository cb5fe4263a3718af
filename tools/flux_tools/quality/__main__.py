"""`scripts/measure_demo`: measures the demo checkpoint with Triton; writes tables and sheets of the docs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from flux_client import FluxClient
from flux_contract.errors import FluxError
from flux_serving.launch.processes import end_on_signals
from flux_serving.launch.server import ModelDied, TritonServer
from flux_tools.demo.__main__ import CHECKPOINTS, ROOT, options
from flux_tools.demo.asset import expand
from flux_tools.demo.images import fetch_package, load_images, split
from flux_tools.documents import replaced
from flux_tools.quality.control import CONTROLS
from flux_tools.quality.editing import EDITING
from flux_tools.quality.gallery import Finding, Gallery, spread
from flux_tools.quality.options import read_options
from flux_tools.quality.questions import QUESTIONS

DOCS = ROOT / "docs"
#: By page: the folder of its sheets in docs/pictures, and its measurements.
PAGES = {
    "demo-checkpoint.md": ("demo", QUESTIONS),
    "redux-control.md": ("control", CONTROLS),
    "editing.md": ("editing", EDITING),
}
ASKED = QUESTIONS | CONTROLS | EDITING
#: Number of held-out images that are measured.
SOURCES = 200


def keep(name: str, finding: Finding, folder: Path, into_docs: bool) -> None:
    """Save the images of a finding; with into_docs also its table and the files of the product that it generates."""
    for file, image in finding.images.items():
        image.save((DOCS / "pictures" if into_docs else folder) / file, optimize=True)
    if not into_docs:
        finding.sheet.save(folder / f"{name}.png", optimize=True)
        return
    (page, pictures), *_ = ((DOCS / page, of_page) for page, (of_page, asked) in PAGES.items() if name in asked)
    (DOCS / "pictures" / pictures).mkdir(parents=True, exist_ok=True)
    finding.sheet.save(DOCS / "pictures" / pictures / f"{name}.png", optimize=True)
    text = f"{finding.table}\n\n![{name}](pictures/{pictures}/{name}.png)"
    page.write_text(replaced(page.read_text(), {name: text}))
    for path, content in finding.data.items():
        path.write_text(content)


def main() -> int:
    chosen = read_options()
    chosen.questions = chosen.questions or list(ASKED)
    if unknown := set(chosen.questions) - set(ASKED):
        print(
            f"scripts/measure_demo: unknown QUESTIONS: {', '.join(sorted(unknown))}; expected: {', '.join(ASKED)}",
            file=sys.stderr,
        )
        return 2
    expand(CHECKPOINTS)
    trained_on, held_out = split(load_images(fetch_package(chosen.runs)))
    asked_about = [held_out[index] for index in spread(len(held_out), SOURCES)]
    gallery = Gallery(trained_on, asked_about, np.stack([image.rgb for image in asked_about]))
    end_on_signals()
    chosen.output.mkdir(parents=True, exist_ok=True)
    try:
        log = chosen.output / "triton.log"
        with log.open("ab") as output, TritonServer(options(serve=False), output) as server:
            server.wait_until_ready()
            with FluxClient(server.grpc_url) as client:
                for name in chosen.questions:
                    finding = ASKED[name](client, gallery)
                    print(f"\n## {name}: {ASKED[name].__doc__}\n\n{finding.table}", flush=True)
                    keep(name, finding, chosen.output, chosen.docs)
    except (FluxError, ModelDied) as error:
        print(f"scripts/measure_demo: {error}\nTriton's log: {log}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
