"""What a server needs of /dev/shm, of time, and of load, in cases that can be worked out by hand."""

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


def test_grace_is_pre_stop_twice_the_exit_timeout_and_the_killing() -> None:
    assert grace_period_seconds(65, 3000) == 65 + 3000 + 3000 + 10 + 5


def test_pre_stop_outlasts_a_kept_name_and_then_a_connection() -> None:
    assert pre_stop_seconds(connection_age=30) == 63
    assert pre_stop_seconds(connection_age=100) == 140


def test_the_longest_image_is_its_steps_of_two_rows() -> None:
    machine = Machine("", overhead=1.0, per_token=0.01, per_token_pair=0.0)
    # 32x32 pixels are 4 tokens; with 6 of context a row has 10, and there are two.
    assert longest_image_seconds(32, steps=5, context_tokens=6, machine=machine) == pytest.approx(5 * (1 + 20 * 0.01))


def test_an_image_of_more_steps_pixels_or_context_takes_longer() -> None:
    assert longest_image_seconds() > longest_image_seconds(steps=50)
    assert longest_image_seconds() > longest_image_seconds(side=2048)
    assert longest_image_seconds() > longest_image_seconds(context_tokens=512)


def test_the_target_is_two_full_steps() -> None:
    assert target_tokens() == 2 * 8192
    machine = Machine("", overhead=1.0, per_token=0.0, per_token_pair=0.0)
    # 16 rows of 1024 fit, 8 in a step; of rows of 5000 three fit, and each has a step of its own.
    assert round_seconds(1024, machine) == 2
    assert round_seconds(5000, machine) == 3


def test_one_call_of_image_encode_is_its_pixels_and_their_base64() -> None:
    largest = Largest(images=2, pixels=MEBIBYTE)
    bytes_of_call = shared_memory._call_bytes(IMAGE_ENCODE, largest)
    canvas = 3 * MEBIBYTE + MEBIBYTE
    assert bytes_of_call == 2 * 3 * MEBIBYTE + canvas + 2 * 4 * MEBIBYTE + MEBIBYTE


def test_every_stream_is_counted_and_the_one_that_is_let_in() -> None:
    assert shared_memory._calls(FLUX_STREAM) == limits.MAX_STREAMS + 1


def test_models_of_a_gpu_count_once_for_each() -> None:
    a_gpus = [model for model in MODELS if model.needs_gpu]
    one, two = shared_memory_bytes(1), shared_memory_bytes(2)
    more = sum(shared_memory._calls(model) * shared_memory._call_bytes(model, BY_CONTRACT) for model in a_gpus)
    assert FLUX_BASE in a_gpus
    assert two - one == more


def test_what_passes_the_gateway_is_less_than_what_the_contract_allows() -> None:
    assert shared_memory_bytes(1, BY_GATEWAY) < shared_memory_bytes(1, BY_CONTRACT)


def test_every_large_tensor_has_a_size() -> None:
    """A tensor of variable length that is not counted would be one that nobody has thought of."""
    sizes = BY_CONTRACT.sizes()
    small = 64 * 1024
    for model in MODELS:
        for tensor in (*model.inputs, *model.outputs):
            if -1 in tensor.shape and len(tensor.shape) >= 2 and tensor.name not in sizes:
                assert tensor.name in KNOWN_SMALL, f"{model.name}: {tensor.name}"
    assert all(size > small for size in sizes.values())


#: Of two dimensions, and yet a few numbers for each token at most.
KNOWN_SMALL = {"CONTEXT_SPANS"}


def test_it_prints_a_line_for_every_number() -> None:
    assert [line.partition(":")[0] for line in lines()] == [
        "/dev/shm, 1 GPU",
        "/dev/shm, 2 GPU",
        "/dev/shm, CPU, callers behind the gateway",
        "gateway's memory",
        "preStop, at least",
        "longest image that the contract allows",
        "longest image that the gateway allows",
        "tokens for each GPU",
    ]
