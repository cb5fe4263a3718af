"""`scripts/simulate`: run the studies, save their results, and write docs/scaling.md and its images, or one section."""

from __future__ import annotations

import json
from pathlib import Path

from flux_tools.simulation import capacity, instances, servers
from flux_tools.simulation.options import read_options
from flux_tools.simulation.report import draw, page, with_section
from flux_tools.simulation.study import everything, run_study

ROOT = Path(__file__).resolve().parents[3]


def main() -> None:
    arguments = read_options()
    requests = 1_000 if arguments.quick else 20_000
    if arguments.study == "instances":
        rows = run_study("instances", instances.instances(requests // 5))
        _write_section(instances.section(rows), arguments.quick)
        instances.draw_instances(rows, _docs(arguments.quick) / "pictures" / "instances.png")
        return
    if arguments.study == "servers":
        _write_section(servers.section(run_study("servers", servers.servers(requests)), requests), arguments.quick)
        return
    if arguments.study == "capacity":
        _write_section(capacity.section(run_study("capacity", capacity.capacity(requests)), requests), arguments.quick)
        return

    docs = _docs(arguments.quick)
    if arguments.render:
        results = json.loads(arguments.render.read_text())
    else:
        results = everything(20_000 if arguments.quick else 1_000_000, requests)
        results["instances"] = run_study("instances", instances.instances(requests // 5))
        results["servers"] = run_study("servers", servers.servers(requests))
        results["capacity"] = run_study("capacity", capacity.capacity(requests))
        path = ROOT / "runs" / "simulation.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(results, indent=1))
        print(f"wrote the results to {path.relative_to(ROOT)}")
    draw(results, docs / "pictures" / "scaling.png")
    instances.draw_instances(results["instances"], docs / "pictures" / "instances.png")
    (docs / "scaling.md").write_text(page(results))
    print(f"wrote {(docs / 'scaling.md').relative_to(ROOT)} and its images")


def _docs(is_quick: bool) -> Path:
    docs = ROOT / "out" if is_quick else ROOT / "docs"
    (docs / "pictures").mkdir(parents=True, exist_ok=True)
    return docs


def _write_section(section: str, is_quick: bool) -> None:
    page = ROOT / "docs" / "scaling.md"
    target = ROOT / "out" / page.name if is_quick else page
    target.parent.mkdir(exist_ok=True)
    target.write_text(with_section(page.read_text(), section))
    print(f"wrote this section of {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
