"""The installed version of flux-triton."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("flux-triton")
except PackageNotFoundError:  # The source is on PYTHONPATH without being installed.
    __version__ = "unknown"
