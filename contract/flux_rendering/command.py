"""Writes and checks every rendered file of the repository."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flux_rendering.client_keywords import render_keywords
from flux_rendering.pbtxt import DEFAULT_GPUS, gpu_list, render_all
from flux_rendering.tables import render_metrics, render_parameters, render_tensors, replace_sections


def rendered_files(root: Path, gpus: tuple[int, ...] = DEFAULT_GPUS) -> dict[Path, str]:
    """Return the text of every rendered file, by path. root: of the repository. gpus: of the default configs."""
    docs = root / "docs"
    files = {root / "model_repository" / path: text for path, text in render_all(gpus).items()}
    files[root / "client" / "flux_client" / "keywords.py"] = render_keywords()
    files |= {page: replace_sections(page.read_text()) for page in (root / "README.md", *sorted(docs.glob("*.md")))}
    files[docs / "tensors.md"] = render_tensors()
    files[docs / "parameters.md"] = render_parameters()
    files[docs / "metrics.md"] = render_metrics()
    return files | _monitoring(root)


def main(root: Path, description: str | None) -> int:
    """Write or check the rendered files. Returns the exit code."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="do not write files; exit 1 if one differs")
    parser.add_argument("--gpus", type=gpu_list, default=DEFAULT_GPUS, help="GPUs of the default configs; default: 7,8")
    arguments = parser.parse_args()
    files = rendered_files(root, arguments.gpus)
    differing = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    for path in differing:
        print(f"{'differs' if arguments.check else 'wrote'}: {path.relative_to(root)}")
        if not arguments.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path])
    return 1 if arguments.check and differing else 0


def _monitoring(root: Path) -> dict[Path, str]:
    """Return the files that need PyYAML; none if it is not installed, as on machines that only choose GPUs."""
    try:
        from flux_rendering.monitoring import render_alerts, render_object
    except ModuleNotFoundError as error:
        print(f"skipped: docs/alerts.md and prometheus-rule.yaml: {error}", file=sys.stderr)
        return {}
    rules = root / "deploy" / "monitoring" / "rules.yaml"
    text = rules.read_text()
    return {
        rules.with_name("prometheus-rule.yaml"): render_object(text),
        root / "docs" / "alerts.md": render_alerts(text),
    }
