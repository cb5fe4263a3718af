"""Entry point of `flux-gateway`. It names the extra to install if the gateway's packages are missing."""

from __future__ import annotations

import sys


def main() -> int:
    try:
        from flux_gateway.command import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("flux_"):
            raise
        print(f'flux-gateway: {error}; run: pip install "flux-triton[gateway]"', file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
