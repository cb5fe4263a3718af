"""Prints the sizes for the manifests under deploy/."""

from __future__ import annotations

from flux_gateway.settings import Settings
from flux_tools.simulation.figures import CONTEXT_TOKENS
from flux_tools.simulation.machine import image_tokens
from flux_tools.sizing.ending import longest_image_seconds, pre_stop_seconds
from flux_tools.sizing.gateway import gateway_memory_gibibytes, gateway_tmp_bytes
from flux_tools.sizing.load import round_seconds, target_tokens
from flux_tools.sizing.shared_memory import BY_CONTRACT, BY_GATEWAY, shared_memory_gibibytes


def lines() -> list[str]:
    gateways = longest_image_seconds(2048, context_tokens=CONTEXT_TOKENS)
    row = image_tokens(1024, 1024) + CONTEXT_TOKENS
    return [
        *(f"/dev/shm, {gpus} GPU: {shared_memory_gibibytes(gpus, BY_CONTRACT)} GiB" for gpus in (1, 2)),
        f"/dev/shm, CPU, requests through the gateway: {shared_memory_gibibytes(0, BY_GATEWAY)} GiB",
        f"gateway's memory: {gateway_memory_gibibytes(Settings())} GiB, /tmp: {gateway_tmp_bytes() // 2**20} MiB",
        f"preStop, minimum: {pre_stop_seconds()} s",
        f"longest image that the contract allows: {longest_image_seconds():.0f} s",
        f"longest image that the gateway allows: {gateways:.0f} s",
        f"tokens per GPU: {target_tokens()}, {target_tokens() // row} images of 1024x1024, "
        f"one step of each in {round_seconds(row):.2f} s",
    ]


if __name__ == "__main__":
    print(*lines(), sep="\n")
