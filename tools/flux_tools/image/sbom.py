"""Writes an image's SBOM as CycloneDX JSON: Python packages, found by cyclonedx-py, and Debian packages."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path
from urllib.parse import quote

from flux_tools.image.engines import ContainerEngine, ImageError

#: Runs in the image: writes a tar file with the metadata of all installed Python packages.
_METADATA = """
import importlib.metadata, io, pathlib, sys, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
    for distribution in importlib.metadata.distributions():
        folder = pathlib.Path(distribution.locate_file("")) / pathlib.Path(distribution._path).name
        for name in ("METADATA", "PKG-INFO", "direct_url.json"):
            if (folder / name).is_file():
                tar.add(folder / name, f"{folder.name}/{name}")
"""
_DEBIAN = ["dpkg-query", "--show", "--showformat=${Package} ${Version} ${Architecture}\\n"]


def write_sbom(engine: ContainerEngine, tag: str, path: Path) -> int:
    """Write the SBOM. Returns the number of its components.

    Raises ImageError: no Python packages were found, or cyclonedx-py failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        metadata = Path(folder, "packages")
        with tarfile.open(fileobj=io.BytesIO(engine.output(tag, ["python3", "-c", _METADATA]))) as tar:
            tar.extractall(metadata, filter="data")
        # cyclonedx-py asks an interpreter for the folders of its packages. This script replaces it, because the image's
        # interpreter would return folders inside the image.
        python = Path(folder, "python")
        python.write_text(f"#!/bin/sh\necho '{json.dumps([str(metadata)])}'\n")
        python.chmod(0o755)
        command = ["cyclonedx-py", "environment", "--output-reproducible", str(python)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ImageError(f"cyclonedx-py: {done.stderr.strip()}")
    sbom = json.loads(done.stdout)
    if not sbom.get("components"):
        raise ImageError(f"{tag}: no Python packages were found")
    sbom["components"] += _debian_components(engine, tag)
    config = engine.config(tag)
    sbom["metadata"]["component"] = {
        "type": "container",
        "name": config.labels["org.opencontainers.image.title"],
        "version": config.labels["org.opencontainers.image.version"],
        "bom-ref": tag,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(sbom, indent=1) + "\n")
    return len(sbom["components"])


def _debian_components(engine: ContainerEngine, tag: str) -> list[dict[str, str]]:
    release = engine.output(tag, ["cat", "/etc/os-release"]).decode()
    match = re.search(r"^ID=\"?(\w+)", release, re.MULTILINE)
    if match is None:
        raise ImageError(f"{tag}: /etc/os-release has no ID")
    components = []
    for line in engine.output(tag, _DEBIAN).decode().splitlines():
        name, version, architecture = line.split()
        purl = f"pkg:deb/{match[1]}/{name}@{quote(version, safe='.~+-')}?arch={architecture}"
        components.append({"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl})
    return components
