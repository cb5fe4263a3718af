"""Print the numbers of the manifests under deploy/."""

from __future__ import annotations

from flux_simulation.figures import CONTEXT_TOKENS
from flux_simulation.machine import image_tokens
from flux_sizing.ending import longest_image_seconds
from flux_sizing.load import round_seconds, target_tokens
from flux_sizing.shared_memory import BY_CONTRACT, BY_GATEWAY, shared_memory_gibibytes


def main() -> None:
    for gpus in (1, 2):
        print(f"/dev/shm, {gpus} GPU: {shared_memory_gibibytes(gpus, BY_CONTRACT)} GiB")
    print(f"/dev/shm, CPU, callers behind the gateway: {shared_memory_gibibytes(0, BY_GATEWAY)} GiB")
    print(f"longest image that the contract allows: {longest_image_seconds():.0f} s")
    gateways = longest_image_seconds(2048, context_tokens=CONTEXT_TOKENS)
    print(f"longest image that the gateway allows: {gateways:.0f} s")
    row = image_tokens(1024, 1024) + CONTEXT_TOKENS
    print(
        f"tokens for each GPU: {target_tokens()}, {target_tokens() // row} images of 1024x1024, "
        f"a step of each in {round_seconds(row):.2f} s"
    )


if __name__ == "__main__":
    main()
