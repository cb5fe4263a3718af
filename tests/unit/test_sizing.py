"""Shared memory, shutdown times and target load of a server, in cases that can be calculated by hand."""

from __future__ import annotations

import pytest

from flux_contract import limits
from flux_contract.models import FLUX_BASE, FLUX_STREAM, IMAGE_ENCODE, MODELS
from flux_tools.simulation.machine import Machine
from flux_tools.sizing import shared_memory
from flux_tools.sizing.__main__ import lines
from flux_tools.sizing.ending import grace_period_seconds, longest_image_seconds, pre_stop_seconds
from flux_tools.sizing.load import round_seconds, target_tokens
from flux_tools.sizing.shared_memory import BY_CONTRACT, BY_GATEWAY, Largest, shared_memory_bytes

MEBIBYTE = 2**20


def test_grace_period_is_pre_stop_plus_twice_exit_timeout_plus_kill_time() -> None:
    assert grace_period_seconds(65, 3000) == 65 + 3000 + 3000 + 10 + 5


def test_pre_stop_outlasts_cached_address_and_connection() -> None:
    assert pre_stop_seconds(connection_age=30) == 63
    assert pre_stop_seconds(connection_age=100) == 140


def test_longest_image_has_two_rows_per_step() -> None:
    machine = Machine("", overhead=1.0, per_token=0.01, per_token_pair=0.0)
    # 32x32 pixels are 4 tokens, so with 6 context tokens each of the two rows has 10.
    assert longest_image_seconds(32, steps=5, context_tokens=6, machine=machine) == pytest.approx(5 * (1 + 20 * 0.01))


def test_more_steps_pixels_or_context_take_longer() -> None:
    assert longest_image_seconds() > longest_image_seconds(steps=50)
    assert longest_image_seconds() > longest_image_seconds(side=2048)
    assert longest_image_seconds() > longest_image_seconds(context_tokens=512)


def test_target_is_two_full_steps() -> None:
    assert target_tokens() == 2 * 8192
    machine = Machine("", overhead=1.0, per_token=0.0, per_token_pair=0.0)
    # 16 rows of 1024 tokens fit, 8 per step; three rows of 5000 tokens fit, one per step.
    assert round_seconds(1024, machine) == 2
    assert round_seconds(5000, machine) == 3


def test_call_of_image_encode_has_pixels_and_their_base64() -> None:
    largest = Largest(images=2, pixels=MEBIBYTE)
    bytes_of_call = shared_memory._call_bytes(IMAGE_ENCODE, largest)
    canvas = 3 * MEBIBYTE + MEBIBYTE
    assert bytes_of_call == 2 * 3 * MEBIBYTE + canvas + 2 * 4 * MEBIBYTE + MEBIBYTE


def test_counts_every_stream_and_the_one_being_accepted() -> None:
    assert shared_memory._calls(FLUX_STREAM) == limits.MAX_STREAMS + 1


def test_gpu_models_count_once_per_gpu() -> None:
    gpu_models = [model for model in MODELS if model.needs_gpu]
    one, two = shared_memory_bytes(1), shared_memory_bytes(2)
    more = sum(shared_memory._calls(model) * shared_memory._call_bytes(model, BY_CONTRACT) for model in gpu_models)
    assert FLUX_BASE in gpu_models
    assert two - one == more


def test_requests_through_the_gateway_need_less_than_the_contract_allows() -> None:
    assert shared_memory_bytes(1, BY_GATEWAY) < shared_memory_bytes(1, BY_CONTRACT)


def test_every_large_tensor_has_a_size() -> None:
    """Fails for a new tensor of variable length that is neither counted nor known to be small."""
    sizes = BY_CONTRACT.sizes()
    small = 64 * 1024
    for model in MODELS:
        for tensor in (*model.inputs, *model.outputs):
            if -1 in tensor.shape and len(tensor.shape) >= 2 and tensor.name not in sizes:
                assert tensor.name in KNOWN_SMALL, f"{model.name}: {tensor.name}"
    assert all(size > small for size in sizes.values())


#: Tensors of two dimensions with at most a few numbers per token.
KNOWN_SMALL = {"CONTEXT_SPANS"}


def test_prints_a_line_for_every_size() -> None:
    assert [line.partition(":")[0] for line in lines()] == [
        "/dev/shm, 1 GPU",
        "/dev/shm, 2 GPU",
        "/dev/shm, CPU, requests through the gateway",
        "gateway's memory",
        "preStop, minimum",
        "longest image that the contract allows",
        "longest image that the gateway allows",
        "tokens per GPU",
    ]
