from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "fastapi",
    "starlette",
    "uvicorn",
    "flask",
    "tritonclient",
    "gevent",
    "grpc",
)


def loaded_by(code):
    script = f"import sys\n{code}\nprint(*sorted(name for name in {HEAVY} if name in sys.modules))"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script], check=True, capture_output=True, text=True, timeout=120
    ).stdout.split()


def test_importing_the_client_does_not_import_torch_web_frameworks_or_protocols():
    assert loaded_by("import flux_client, flux_client.fake, flux_client.cli") == []


def test_opening_a_connection_imports_only_its_protocol():
    assert loaded_by("import flux_client\nflux_client.FluxClient(protocol='grpc').close()") == ["grpc", "tritonclient"]
    assert loaded_by("import flux_client\nflux_client.FluxClient(protocol='http').close()") == [
        "gevent",
        "tritonclient",
    ]
