from __future__ import annotations

import asyncio
import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from flux_client import AsyncFluxClient, FluxClient, InvalidRequest, Overloaded, RetryPolicy
from flux_client.fake import AsyncFakeTransport, FakeTransport
from flux_client.fake_server import DEFAULT_SIDE, answer, stream_answers
from flux_client.request import Request


def png(colour="red"):
    buffer = BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def client():
    with FluxClient(transport=FakeTransport()) as client:
        yield client


def test_images_have_the_requested_number_size_and_format(client):
    variations = client.redux(png(), height=64, width=96, num_images=3, seed=7, output_format="webp")
    assert [(v.seed, v.image.size, v.format) for v in variations] == [
        (7, (96, 64), "webp"),
        (8, (96, 64), "webp"),
        (9, (96, 64), "webp"),
    ]


def test_without_options_the_defaults_of_the_contract_apply(client):
    [variation] = client.redux(png())
    assert (variation.seed, variation.image.size, variation.format) == (42, (DEFAULT_SIDE, DEFAULT_SIDE), "png")


def test_the_same_seed_and_image_result_in_the_same_bytes(client):
    [first], [again] = client.redux(png(), seed=1), client.redux(png(), seed=1)
    [other_seed], [other_image] = client.redux(png(), seed=2), client.redux(png("blue"), seed=1)
    assert first == again
    assert len({first.data, other_seed.data, other_image.data}) == 3


def test_a_random_seed_is_returned_and_reproduces_the_image(client):
    [variation] = client.redux(png(), seed=-1)
    assert variation.seed >= 0
    assert client.redux(png(), seed=variation.seed) == [variation]


def test_requests_are_recorded():
    transport = FakeTransport()
    with FluxClient(transport=transport) as client:
        client.redux(png(), seed=5, request_id="mine", timeout_s=9)
    [sent] = transport.sent
    assert sent.request.inputs["SEED"].tolist() == [[5]]
    assert sent.request_id == "mine"
    assert 8 < sent.timeout_s <= 9
    assert transport.closed


def test_errors_are_raised_in_order_before_responses():
    transport = FakeTransport(Overloaded("full"))
    client = FluxClient(transport=transport, retry=RetryPolicy(attempts=1))
    with pytest.raises(Overloaded, match="full"):
        client.redux(png())
    assert len(client.redux(png())) == 1


def test_the_asynchronous_fake_responds_identically():
    async def ask():
        async with AsyncFluxClient(transport=AsyncFakeTransport()) as client:
            await client.wait_until_ready(1)
            return await asyncio.gather(*(client.redux(png(), seed=seed) for seed in (1, 2)))

    sync = FluxClient(transport=FakeTransport())
    assert asyncio.run(ask()) == [sync.redux(png(), seed=seed) for seed in (1, 2)]


def test_images_may_be_base64_or_a_data_url(client):
    text = base64.b64encode(png())
    assert client.redux(text)
    assert client.redux(b"data:image/png;base64," + text)


def text(value):
    array = np.empty((1, 1), dtype=np.object_)
    array[0, 0] = value
    return array


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "IMAGE is missing"),
        ({"IMAGE": text(b"junk")}, "IMAGE is not an image"),
        ({"IMAGE": text(png()), "COLOUR": text(b"red")}, "unexpected input COLOUR"),
        ({"IMAGE": text(png()), "SEED": np.array([[1]], np.int32)}, "SEED has type int32, expected INT64"),
        ({"IMAGE": text(png()), "SEED": np.array([1], np.int64)}, "SEED has shape"),
        ({"IMAGE": text(png()), "SEED": np.array([[1], [2]], np.int64)}, "SEED has shape"),
        ({"IMAGE": text(png()), "WIDTH": np.array([[100]], np.int32)}, "WIDTH=100, expected a multiple of 16"),
        ({"IMAGE": text(png()), "NUM_IMAGES": np.array([[9]], np.int32)}, "NUM_IMAGES=9, expected"),
        ({"IMAGE": text(png()), "OUTPUT_FORMAT": text(b"gif")}, "OUTPUT_FORMAT='gif'"),
    ],
)
def test_raw_requests_are_checked_against_the_contract(inputs, message):
    with pytest.raises(InvalidRequest, match=message):
        answer(Request("flux_redux", inputs, ("OUTPUT_IMAGE", "OUTPUT_SEED")))


def test_rejects_an_unknown_model():
    for ask in (answer, lambda request: next(stream_answers(request))):
        with pytest.raises(InvalidRequest, match="unknown model"):
            ask(Request("resnet", {}, ()))


def test_exactly_the_models_that_clients_call_are_ready():
    models = ("flux_redux", "flux_img2img", "flux_text2img", "flux_canny", "canny_edges", "flux_stream", "flux_base")
    assert [FakeTransport().is_ready(model, 1) for model in models] == [True] * 6 + [False]


def test_the_prompt_and_the_control_image_change_the_images(client):
    made = [
        *client.redux(png(), prompt="owl"),
        *client.redux(png()),
        *client.text2img("owl"),
        *client.text2img("cat"),
        *client.canny(png(), images=png("blue")),
        *client.canny(png("blue"), images=png("blue")),
    ]
    assert len({variation.data for variation in made}) == 6


def test_there_is_an_image_for_each_seed(client):
    assert [variation.seed for variation in client.text2img("owl", seed=[7, 3])] == [7, 3]
    random, given = client.text2img("owl", seed=[-1, 3])
    assert random.seed >= 0
    assert given.seed == 3


def test_only_requested_outputs_are_returned(client):
    inputs = {"CONTROL_IMAGE": text(png()), "HEIGHT": np.array([[32]], np.int32)}
    assert answer(Request("flux_canny", {**inputs, "PROMPT": text(b"")}, ("EDGE_IMAGE",))).keys() == {"EDGE_IMAGE"}
    assert answer(Request("canny_edges", inputs, ("EDGE_IMAGE",))).keys() == {"EDGE_IMAGE"}
    assert client.edges(png(), height=32).size == (DEFAULT_SIDE, 32)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "IMAGE is missing"),
        ({"MODE": text(b"video")}, "MODE='video', expected one of"),
        ({"MODE": text(b"text2img")}, "PROMPT is missing"),
        ({"MODE": text(b"text2img"), "IMAGE": text(png())}, "unexpected input IMAGE"),
        ({"MODE": text(b"canny")}, "CONTROL_IMAGE is missing"),
        (
            {"MODE": text(b"canny"), "CONTROL_IMAGE": text(b"junk"), "PROMPT": text(b"")},
            "CONTROL_IMAGE is not an image",
        ),
        ({"IMAGE": text(png()), "PROGRESS_ADDRESS": text(b"x")}, "unexpected input PROGRESS_ADDRESS"),
        ({"IMAGE": text(png()), "STREAM_TOKEN": text(b"guessable")}, "STREAM_TOKEN does not match"),
        ({"CANCEL": text(b"0" * 22)}, "CANCEL: no running stream has this token"),
    ],
)
def test_raw_streams_are_checked_against_their_mode(inputs, message):
    with pytest.raises(InvalidRequest, match=f"flux_stream: {message}"):
        next(stream_answers(Request("flux_stream", inputs, ("OUTPUT_IMAGE", "OUTPUT_SEED"))))
