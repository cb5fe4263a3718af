"""Every method of both clients, and its stream: the requests that they send, and the arguments that they reject."""

from __future__ import annotations

import asyncio
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from flux_client import (
    AsyncFluxClient,
    FluxClient,
    GenerationFailed,
    ImageResult,
    InvalidRequest,
    NotConnected,
    Overloaded,
    Progress,
    RetryPolicy,
)
from flux_client.fake import AsyncFakeTransport, FakeTransport
from flux_client.similarity import weight_of

SOON = RetryPolicy(attempts=2, first_delay_s=0.001)


def png(colour="red"):
    buffer = BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, format="PNG")
    return buffer.getvalue()


class Caller:
    """One client, synchronous or not, of one fake server."""

    def __init__(self, kind):
        self.kind = kind
        self.fake = FakeTransport()

    def call(self, name, *arguments, **options):
        return self._run(lambda client: getattr(client, name)(*arguments, **options))

    def stream(self, *arguments, **options):
        """Returns all events."""

        async def collected(client):
            return [event async for event in client.stream(*arguments, **options)]

        return self._run(
            collected if self.kind == "async" else lambda client: list(client.stream(*arguments, **options))
        )

    def sent(self):
        """Returns the model and the inputs of the only request, as plain values."""
        [sent] = self.fake.sent
        return sent.request.model, {name: array[0].tolist() for name, array in sent.request.inputs.items()}

    def _run(self, ask):
        if self.kind == "sync":
            return ask(FluxClient(transport=self.fake, retry=SOON))

        async def run():
            transport = AsyncFakeTransport()
            transport.fake = self.fake
            return await ask(AsyncFluxClient(transport=transport, retry=SOON))

        return asyncio.run(run())


@pytest.fixture(params=["sync", "async"])
def caller(request):
    return Caller(request.param)


def test_img2img_has_a_strength_and_an_image_strength(caller):
    options = {"strength": 0.5, "image_strength": [0, 1], "fit": "stretch", "prompt": "owl"}
    made = caller.call("img2img", [png(), png("blue")], **options)
    assert [type(one) for one in made] == [ImageResult]
    assert caller.sent() == (
        "flux_img2img",
        {
            "IMAGE": [png(), png("blue")],
            "STRENGTH": [0.5],
            "IMAGE_STRENGTH": [0, 1],
            "FIT": [b"stretch"],
            "PROMPT": [b"owl"],
        },
    )


def test_text2img_sends_a_prompt(caller):
    made = caller.call("text2img", "an owl", negative_prompt="fog", true_cfg_scale=4, seed=[5, 9], lora="ink")
    assert [one.seed for one in made] == [5, 9]
    assert caller.sent() == (
        "flux_text2img",
        {
            "PROMPT": [b"an owl"],
            "NEGATIVE_PROMPT": [b"fog"],
            "TRUE_CFG_SCALE": [4],
            "SEED": [5, 9],
            "LORA": [b"ink"],
        },
    )


def test_canny_accepts_redux_images(caller):
    made = caller.call("canny", png(), images=png("blue"), control_scale=0.5, canny_high=300, num_images=2)
    assert len(made) == 2
    assert caller.sent() == (
        "flux_canny",
        {
            "CONTROL_IMAGE": [png()],
            "IMAGE": [png("blue")],
            "CONTROL_SCALE": [0.5],
            "CANNY_HIGH": [300],
            "NUM_IMAGES": [2],
            "PROMPT": [b""],
        },
    )


def test_canny_does_not_require_redux_images(caller):
    caller.call("canny", png(), control_kind="edges")
    assert caller.sent() == ("flux_canny", {"CONTROL_IMAGE": [png()], "CONTROL_KIND": [b"edges"], "PROMPT": [b""]})


def test_edges_returns_the_edge_map(caller):
    edges = caller.call("edges", png(), height=32, width=48, canny_low=10, fit="contain", request_id="mine")
    assert (edges.size, edges.format) == ((48, 32), "PNG")
    assert caller.sent() == (
        "canny_edges",
        {"CONTROL_IMAGE": [png()], "HEIGHT": [32], "WIDTH": [48], "CANNY_LOW": [10], "FIT": [b"contain"]},
    )
    assert caller.fake.sent[0].request_id == "mine"


@pytest.mark.parametrize(
    ("name", "arguments"), [("redux", [png()]), ("img2img", [png()]), ("text2img", ["owl"]), ("canny", [png()])]
)
@pytest.mark.parametrize("error", [Overloaded("full"), NotConnected("refused")])
def test_every_method_retries_a_rejection_before_any_work(caller, name, arguments, error):
    caller.fake = FakeTransport(error)
    assert len(caller.call(name, *arguments)) == 1
    assert len(caller.fake.sent) == 2


def test_an_inconsistent_response_is_reported_with_the_ensemble_name(caller):
    caller.fake.infer = lambda *_: {"OUTPUT_IMAGE": np.array([[b"a"]], object)}
    with pytest.raises(GenerationFailed, match="flux_canny: the response has no OUTPUT_SEED"):
        caller.call("canny", png())


@pytest.mark.parametrize(
    ("name", "arguments", "options", "error"),
    [
        ("img2img", [png()], {"strength": 2}, InvalidRequest),
        ("img2img", [png()], {"control_scale": 1}, TypeError),
        ("text2img", [None], {}, TypeError),
        ("text2img", ["owl"], {"images": png()}, TypeError),
        ("text2img", ["owl"], {"seed": [1, 2], "num_images": 3}, InvalidRequest),
        ("text2img", ["owl"], {"lora": ["a", "b"], "lora_scale": [1, 1, 1]}, InvalidRequest),
        ("canny", [[png()]], {}, TypeError),
        ("canny", [png()], {"strength": 1}, TypeError),
        ("canny", [png()], {"canny_low": "faint"}, InvalidRequest),
        ("edges", [png()], {"prompt": "owl"}, TypeError),
        ("edges", [png()], {"height": 8}, InvalidRequest),
        ("edges", [png()], {"timeout_s": 0}, InvalidRequest),
    ],
)
def test_invalid_options_are_rejected_before_the_request_is_sent(caller, name, arguments, options, error):
    with pytest.raises(error):
        caller.call(name, *arguments, **options)
    assert caller.fake.sent == []


@pytest.mark.parametrize(
    ("mode", "arguments"),
    [
        ("redux", {"images": png(), "seed": [3, 5]}),
        ("img2img", {"images": [png(), png("blue")], "strength": 0.25, "image_strength": 0}),
        ("text2img", {"prompt": "owl", "num_images": 2}),
        ("canny", {"control_image": png(), "images": png("blue"), "prompt": "owl"}),
    ],
)
def test_a_stream_returns_the_same_images_as_the_method(caller, mode, arguments):
    events = caller.stream(mode=mode, num_inference_steps=2, **arguments)
    model, streamed = caller.sent()
    assert model == "flux_stream"
    caller.fake.sent.clear()
    made = caller.call(mode, **arguments)
    _, called = caller.sent()
    told = {} if mode == "redux" else {"MODE": [mode.encode()]}
    assert streamed == {**told, **called, "NUM_INFERENCE_STEPS": [2]}
    assert [event for event in events if isinstance(event, ImageResult)] == made
    assert {event.steps for event in events if isinstance(event, Progress)} == {2}


@pytest.mark.parametrize(
    ("mode", "keyword", "name", "value"),
    [("redux", "similarity", "IMAGE_STRENGTH", weight_of(0.5)), ("img2img", "strength", "STRENGTH", 0.5)],
)
def test_a_stream_accepts_similarity_and_strength_in_their_own_modes(caller, mode, keyword, name, value):
    caller.stream(png(), mode=mode, **{keyword: 0.5})
    _, inputs = caller.sent()
    assert inputs[name] == [pytest.approx(value)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, TypeError, "missing argument 'images'"),
        ({"mode": "text2img"}, TypeError, "missing argument 'prompt'"),
        ({"mode": "text2img", "prompt": "owl", "images": png()}, TypeError, "unexpected keyword argument 'images'"),
        ({"mode": "canny", "images": png()}, TypeError, "missing argument 'control_image'"),
        ({"mode": "canny", "control_image": png(), "strength": 1}, TypeError, "unexpected keyword argument 'strength'"),
        ({"images": png(), "fit": "cover"}, TypeError, "unexpected keyword argument 'fit', expected one of: images, "),
        ({"mode": "video", "images": png()}, InvalidRequest, "MODE='video', expected one of: redux, img2img"),
        ({"mode": "img2img", "images": png(), "strength": 2}, InvalidRequest, "flux_stream: STRENGTH=2, expected 0"),
    ],
)
def test_a_stream_accepts_the_options_of_its_mode(caller, arguments, error, message):
    with pytest.raises(error, match=message):
        caller.stream(**arguments)
    assert caller.fake.sent == []
