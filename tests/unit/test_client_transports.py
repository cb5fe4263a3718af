"""The four transports, with servers on loopback that speak Triton's protocols, and with sockets that never respond."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from flux_client import (
    AsyncFluxClient,
    Cancelled,
    DeadlineExceeded,
    FluxClient,
    GenerationFailed,
    InvalidRequest,
    NotConnected,
    Overloaded,
    Progress,
    RetryPolicy,
    Unreachable,
)
from flux_contract.codes import CODES, with_code

ONCE = RetryPolicy(attempts=1)

IMAGE = b"an encoded image"

TRANSPORTS = [("sync", "grpc"), ("async", "grpc"), ("sync", "http"), ("async", "http")]


class Caller:
    """One call through a real transport, synchronous or not."""

    def __init__(self, kind, protocol):
        self.kind, self.protocol = kind, protocol

    def stream(self, url, *, timeout_s=10.0, retry=ONCE, **options):
        """Returns all events."""

        async def collected(client):
            return [event async for event in client.stream(IMAGE, **options)]

        ask = (lambda client: list(client.stream(IMAGE, **options))) if self.kind == "sync" else collected
        return self._call(url, timeout_s, retry, ask)

    def redux(self, url, images=IMAGE, *, timeout_s=10.0, retry=ONCE, **options):
        return self._call(url, timeout_s, retry, lambda client: client.redux(images, **options))

    def wait_until_ready(self, url, timeout_s):
        return self._call(url, 10.0, ONCE, lambda client: client.wait_until_ready(timeout_s))

    def _call(self, url, timeout_s, retry, ask):
        if self.kind == "sync":
            with FluxClient(url, protocol=self.protocol, timeout_s=timeout_s, retry=retry) as client:
                return ask(client)

        async def run():
            async with AsyncFluxClient(url, protocol=self.protocol, timeout_s=timeout_s, retry=retry) as client:
                return await ask(client)

        return asyncio.run(run())


@pytest.fixture(params=TRANSPORTS, ids="-".join)
def caller(request):
    return Caller(*request.param)


def bytes_tensor(values):
    array = np.empty(len(values), dtype=np.object_)
    array[:] = values
    return serialize_byte_tensor(array).item()


class Door:
    """Common part of both servers: record the request, then reject it, wait or respond."""

    def __init__(self):
        self.requests = []
        self.refusal = None
        self.pause_s = 0.0
        self.ready = True
        self.images = [b"first", b"second"]

    def raw_outputs(self):
        return bytes_tensor(self.images), np.arange(len(self.images), dtype=np.int64).tobytes()


def inputs_of(request):
    return {tensor.name: data for tensor, data in zip(request.inputs, request.raw_input_contents, strict=True)}


def infer_response(**outputs):
    """outputs: datatype, shape and bytes, by name."""
    return service_pb2.ModelInferResponse(
        outputs=[
            service_pb2.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape)
            for name, (datatype, shape, _) in outputs.items()
        ],
        raw_output_contents=[data for _, _, data in outputs.values()],
    )


class GrpcDoor(Door, service_pb2_grpc.GRPCInferenceServiceServicer):
    codes: ClassVar = {
        InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
        Overloaded: grpc.StatusCode.UNAVAILABLE,
        Cancelled: grpc.StatusCode.CANCELLED,
        GenerationFailed: grpc.StatusCode.INTERNAL,
    }

    def __init__(self):
        super().__init__()
        self.steps_before_refusal = 0
        #: Set when the caller of a stream cancels it or disconnects before its end.
        self.hung_up = threading.Event()
        self.cancelled = threading.Event()
        self.ended_well = threading.Event()
        self.ignores_cancel = False
        #: Output of flux_status: seconds left, jobs and room of each instance. None: the model does not exist.
        self.load = None
        self.readings = 0

    def ServerReady(self, request, context):  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request, context):  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=self.ready and request.name == "flux_redux")

    def ModelInfer(self, request, context):  # noqa: N802
        if request.model_name == "flux_status":
            return self._status(context)
        self.requests.append(
            (request.model_name, request.id, request.parameters["timeout"].int64_param, request.raw_input_contents[0])
        )
        time.sleep(self.pause_s)
        if self.refusal:
            context.abort(self.codes[type(self.refusal)], f"in ensemble 'flux_redux', {self.refusal}")
        return self._images()

    def _status(self, context):
        self.readings += 1
        if self.load is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'flux_status' is not found")
        seconds_left, jobs, room = zip(*self.load, strict=True)
        names = b"".join(struct.pack("<I", 1) + b"a" for _ in self.load)
        return infer_response(
            INSTANCE=("BYTES", [1, len(self.load)], names),
            DEVICE=("BYTES", [1, len(self.load)], names),
            SECONDS_LEFT=("FP32", [1, len(self.load)], np.array(seconds_left, np.float32).tobytes()),
            JOBS=("INT32", [1, len(self.load)], np.array(jobs, np.int32).tobytes()),
            ROOM=("INT32", [1, len(self.load)], np.array(room, np.int32).tobytes()),
        )

    def ModelStreamInfer(self, requests, context):  # noqa: N802
        """Yield progress with a pause after each step, then the images; or reject after `steps_before_refusal` steps.

        A request to cancel ends it, as on the real server, unless `ignores_cancel` is set.
        """
        over, answered = threading.Event(), threading.Event()
        context.add_callback(over.set)
        context.add_callback(lambda: answered.is_set() or self.hung_up.set())
        request = next(requests)
        self.requests.append((request, dict(context.invocation_metadata())))
        threading.Thread(target=self._read_cancellation, args=[request, requests, over], daemon=True).start()
        for step in range(3):
            if self.refusal and step == self.steps_before_refusal:
                answered.set()
                message = with_code(str(self.refusal), CODES[type(self.refusal)])
                yield service_pb2.ModelStreamInferResponse(error_message=message)
                return
            progress = np.array([0, step, 2], np.int32).tobytes()
            yield service_pb2.ModelStreamInferResponse(
                infer_response=infer_response(PROGRESS=("INT32", [1, 3], progress))
            )
            if over.wait(self.pause_s):
                if self.cancelled.is_set():
                    answered.set()
                    yield service_pb2.ModelStreamInferResponse(error_message="flux_stream: cancelled (CANCELLED)")
                    if context.is_active():
                        self.ended_well.set()
                return
        answered.set()
        yield service_pb2.ModelStreamInferResponse(infer_response=self._images())

    def _read_cancellation(self, first, requests, over):
        with suppress(grpc.RpcError):
            for request in requests:
                assert request.raw_input_contents == [inputs_of(first)["STREAM_TOKEN"]]
                assert [tensor.name for tensor in request.inputs] == ["CANCEL"]
                if not self.ignores_cancel:
                    self.cancelled.set()
                    self.hung_up.set()
                    over.set()

    def _images(self):
        images, seeds = self.raw_outputs()
        shape = [1, len(self.images)]
        return infer_response(OUTPUT_IMAGE=("BYTES", shape, images), OUTPUT_SEED=("INT64", shape, seeds))

    @contextmanager
    def open(self, port=0, host="127.0.0.1"):
        server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, server)
        port = server.add_insecure_port(f"{host}:{port}")
        server.start()
        self.close = lambda: server.stop(0).wait()
        try:
            yield f"{host}:{port}"
        finally:
            server.stop(0).wait()


class HttpDoor(Door):
    codes: ClassVar = {InvalidRequest: 400, Overloaded: 503, Cancelled: 499, GenerationFailed: 500}

    @contextmanager
    def open(self, port=0):
        door = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._reply(200 if door.ready or "models" not in self.path else 400, b"")

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                header_length = int(self.headers["Inference-Header-Content-Length"])
                header = json.loads(body[:header_length])
                size = header["inputs"][0]["parameters"]["binary_data_size"]
                content = body[header_length : header_length + size]
                model = self.path.split("/")[-2]
                door.requests.append((model, header["id"], header["parameters"]["timeout"], content))
                time.sleep(door.pause_s)
                if door.refusal:
                    message = f"in ensemble 'flux_redux', {door.refusal}"
                    self._reply(door.codes[type(door.refusal)], json.dumps({"error": message}).encode())
                    return
                raw = door.raw_outputs()
                shape = [1, len(door.images)]
                outputs = [
                    {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
                    for name, kind, data in zip(("OUTPUT_IMAGE", "OUTPUT_SEED"), ("BYTES", "INT64"), raw, strict=True)
                ]
                answer = json.dumps({"outputs": outputs}).encode()
                self._reply(200, answer + b"".join(raw), {"Inference-Header-Content-Length": str(len(answer))})

            def _reply(self, status, body, headers=()):
                self.send_response(status)
                for name, value in dict(headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

            def handle(self):
                with suppress(BrokenPipeError, ConnectionResetError):  # The caller's deadline has passed.
                    super().handle()

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def door_of(protocol):
    return GrpcDoor() if protocol == "grpc" else HttpDoor()


@pytest.fixture
def door(caller):
    door = door_of(caller.protocol)
    with door.open() as url:
        door.url = url
        yield door


@contextmanager
def listening(meet):
    """Listen on loopback and call `meet` with each connection. Yields host:port and the list of connections."""
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        stop = threading.Event()

        def accept():
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                connections.append(connection)
                meet(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}", connections
        finally:
            stop.set()
            thread.join()
            for connection in connections:
                connection.close()


def say_nothing(connection):
    pass


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def nobody():
    """Returns an address on which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_request_and_its_response_are_transferred_unchanged(caller, door):
    variations = caller.redux(door.url, request_id="mine", timeout_s=9.0)
    assert [(v.data, v.seed) for v in variations] == [(b"first", 0), (b"second", 1)]
    [(model, request_id, timeout_us, image)] = door.requests
    assert (model, request_id) == ("flux_redux", "mine")
    assert image == bytes_tensor([IMAGE])
    assert 8e6 < timeout_us <= 9e6


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
def test_images_of_many_megabytes_are_sent_and_received(caller, door):
    image = os.urandom(6 * 2**20)
    door.images = [image]
    [variation] = caller.redux(door.url, [image, image])
    assert variation.data == image
    assert door.requests[0][-1] == bytes_tensor([image, image])


@pytest.mark.parametrize("refusal", [InvalidRequest, Overloaded, Cancelled, GenerationFailed])
def test_a_rejection_raises_its_error_with_the_models_message(caller, door, refusal):
    door.refusal = refusal("flux_base: HEIGHT=7, expected 16..2048")
    with pytest.raises(refusal) as raised:
        caller.redux(door.url)
    assert str(raised.value) == "flux_base: HEIGHT=7, expected 16..2048"


def test_a_full_server_is_retried(caller, door):
    door.refusal = Overloaded("full")
    with pytest.raises(Overloaded):
        caller.redux(door.url, retry=RetryPolicy(attempts=3, first_delay_s=0.01))
    assert len(door.requests) == 3


def test_a_slow_server_exceeds_the_deadline(caller, door):
    door.pause_s = 1.0
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"no response from 127\.0\.0\.1:\d+ within 0\.3 s"):
        caller.redux(door.url, timeout_s=0.3)
    assert time.monotonic() - started < 0.9
    assert len(door.requests) == 1


def test_readiness_requires_the_server_and_the_model(caller, door):
    caller.wait_until_ready(door.url, 5)
    door.ready = False
    with pytest.raises(DeadlineExceeded, match="flux_redux is not ready"):
        caller.wait_until_ready(door.url, 0.6)


@pytest.mark.slow
def test_wait_until_ready_returns_soon_after_the_server_starts(caller):
    url = nobody()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(caller.wait_until_ready, url, 20)
        time.sleep(0.6)
        assert not waiting.done()
        with door_of(caller.protocol).open(int(url.rpartition(":")[2])):
            started = time.monotonic()
            waiting.result(timeout=20)
            assert time.monotonic() - started < 4


def test_a_refused_connection_is_not_connected(caller):
    with pytest.raises(NotConnected, match=r"127\.0\.0\.1"):
        caller.redux(nobody())


def test_an_unknown_host_is_not_connected(caller):
    with pytest.raises(NotConnected, match="no-such-host"):
        caller.redux("no-such-host.invalid:8001", timeout_s=5.0)


def test_a_server_that_never_responds_exceeds_the_deadline(caller):
    started = time.monotonic()
    with listening(say_nothing) as (url, _), pytest.raises(DeadlineExceeded, match=f"no response from {url}"):
        caller.redux(url, timeout_s=0.5)
    assert time.monotonic() - started < 3


def test_a_server_that_disconnects_at_once_is_unreachable(caller):
    with listening(socket.socket.close) as (url, _), pytest.raises(Unreachable, match=url):
        caller.redux(url, timeout_s=5.0)
    with listening(reset) as (url, _), pytest.raises(Unreachable, match=url):
        caller.redux(url, timeout_s=5.0)


def test_a_server_killed_during_a_request_is_unreachable_without_a_retry(caller, door):
    door.pause_s = 0.5
    with cable(door.url) as (url, cut), ThreadPoolExecutor(1) as pool:
        call = pool.submit(caller.redux, url, timeout_s=5.0, retry=RetryPolicy(first_delay_s=0.01))
        while not (door.requests or call.done()):
            time.sleep(0.01)
        cut()
        error = call.exception()
    assert type(error) is Unreachable
    assert "the connection broke before the response arrived" in str(error)
    assert len(door.requests) == 1


@contextmanager
def cable(url):
    """Run a proxy to `url`. Yields its host:port and a function that closes all of its connections."""
    host, port = url.split(":")
    ends = []

    def join(near):
        far = socket.create_connection((host, int(port)))
        ends.extend((near, far))
        for source, target in ((near, far), (far, near)):
            threading.Thread(target=_pump, args=(source, target), daemon=True).start()

    def cut():
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    with listening(join) as (proxy, _):
        yield proxy, cut
    cut()
    for end in ends:  # The listener is closed first, because gRPC reconnects by itself.
        end.close()


def _pump(source, target):
    with suppress(OSError):
        while data := source.recv(2**16):
            target.sendall(data)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_cancelling_a_task_cancels_its_call_at_once(protocol):
    door = door_of(protocol)
    door.pause_s = 1.0

    async def run(url):
        async with AsyncFluxClient(url, protocol=protocol) as client:
            task = asyncio.create_task(client.redux(IMAGE))
            await asyncio.sleep(0.3)
            task.cancel()
            await asyncio.wait([task], timeout=0.3)
            return task.cancelled()

    with door.open() as url:
        assert asyncio.run(run(url))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_threads_share_a_client(protocol):
    with (
        door_of(protocol).open() as url,
        FluxClient(url, protocol=protocol, timeout_s=10) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        answers = list(pool.map(lambda _: client.redux(IMAGE), range(12)))
    assert [len(variations) for variations in answers] == [2] * 12


@pytest.mark.parametrize("make", [FluxClient, AsyncFluxClient])
def test_rejects_an_unknown_protocol_and_a_url_with_a_scheme(make):
    with pytest.raises(ValueError, match="protocol='smtp', expected one of: grpc, http"):
        make(protocol="smtp")
    with pytest.raises(ValueError, match="expected host:port such as localhost:8000"):
        make("http://localhost:8000", protocol="http")


@pytest.fixture(params=["sync", "async"])
def streamer(request):
    return Caller(request.param, "grpc")


@pytest.fixture
def stream_door():
    door = GrpcDoor()
    with door.open() as url:
        door.url = url
        yield door


def test_a_request_and_its_events_are_transferred_by_a_stream(streamer, stream_door):
    events = streamer.stream(
        stream_door.url, request_id="mine", timeout_s=9.0, seed=7, image_strength=0.5, preview_steps=3
    )
    assert events[:3] == [Progress(0, step, 2) for step in range(3)]
    assert [(v.data, v.seed) for v in events[3:]] == [(b"first", 0), (b"second", 1)]
    [(request, metadata)] = stream_door.requests
    assert (request.model_name, request.id) == ("flux_stream", "mine")
    assert 8e6 < request.parameters["timeout"].int64_param <= 9e6
    # This would crash Triton 2.51.
    assert "triton_grpc_error" not in metadata
    assert [output.name for output in request.outputs] == ["PROGRESS", "PREVIEW", "OUTPUT_IMAGE", "OUTPUT_SEED"]
    inputs = zip(request.inputs, request.raw_input_contents, strict=True)
    tensors = {tensor.name: (tensor.datatype, [*tensor.shape], data) for tensor, data in inputs}
    assert len(tensors.pop("STREAM_TOKEN")[2]) == 4 + 22
    assert tensors == {
        "IMAGE": ("BYTES", [1, 1], bytes_tensor([IMAGE])),
        "SEED": ("INT64", [1, 1], np.array([7]).tobytes()),
        "IMAGE_STRENGTH": ("FP32", [1, 1], np.array([0.5], np.float32).tobytes()),
        "PREVIEW_STEPS": ("INT32", [1, 1], np.array([3], np.int32).tobytes()),
    }


def test_images_of_many_megabytes_are_received_from_a_stream(streamer, stream_door):
    stream_door.images = [os.urandom(6 * 2**20)]
    assert streamer.stream(stream_door.url)[-1].data == stream_door.images[0]


def test_a_new_client_does_not_inherit_a_connection_failure(streamer):
    for _ in range(5):
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            port = nobody.getsockname()[1]
        with pytest.raises(NotConnected):
            streamer.stream(f"127.0.0.1:{port}")
        with GrpcDoor().open(port) as url:
            assert streamer.stream(url)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_several_servers_take_turns_and_one_retries_what_another_lost(kind, name):
    staying, leaving = GrpcDoor(), GrpcDoor()

    def leave():
        while not leaving.requests:
            time.sleep(0.01)
        leaving.close()

    def ask(url):
        with FluxClient(url) as client:
            return [client.redux(IMAGE, num_images=2) for _ in range(6)]

    async def ask_async(url):
        async with AsyncFluxClient(url) as client:
            return [await client.redux(IMAGE, num_images=2) for _ in range(6)]

    with staying.open() as first, leaving.open() as second:
        url = f"{first}, {second}".replace("127.0.0.1", name)
        leaving.pause_s = 30.0
        gone = threading.Thread(target=leave)
        gone.start()
        answers = ask(url) if kind == "sync" else asyncio.run(ask_async(url))
        gone.join()
    assert [len(images) for images in answers] == [2] * 6
    assert len(leaving.requests) == 1
    assert len(staying.requests) == 6


def test_several_servers_require_grpc_and_at_least_one_address():
    with pytest.raises(ValueError, match="several servers require protocol='grpc'"):
        FluxClient("127.0.0.1:1,127.0.0.1:2", protocol="http")
    with pytest.raises(NotConnected, match=r"nobody\.invalid:1: "):
        FluxClient("nobody.invalid:1,nobody.invalid:2")
    FluxClient("nobody.invalid:1,127.0.0.1:2").close()


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("refusal", [InvalidRequest, Overloaded, Cancelled, GenerationFailed])
def test_a_rejected_stream_raises_its_error_with_the_models_message(streamer, stream_door, refusal, steps):
    stream_door.refusal = refusal("flux_base: HEIGHT=7, expected 16..2048")
    stream_door.steps_before_refusal = steps
    with pytest.raises(refusal) as raised:
        streamer.stream(stream_door.url)
    assert str(raised.value) == "flux_base: HEIGHT=7, expected 16..2048"


@pytest.mark.parametrize(("steps", "asked"), [(0, 3), (1, 1)])
def test_a_full_server_is_retried_before_the_first_event(streamer, stream_door, steps, asked):
    stream_door.refusal = Overloaded("full")
    stream_door.steps_before_refusal = steps
    with pytest.raises(Overloaded):
        streamer.stream(stream_door.url, retry=RetryPolicy(attempts=3, first_delay_s=0.01))
    assert len(stream_door.requests) == asked


def test_an_error_without_a_code_is_a_server_error(streamer, stream_door, monkeypatch):
    def words_alone(self, requests, context):
        next(requests)
        yield service_pb2.ModelStreamInferResponse(error_message="flux_base: bug")

    monkeypatch.setattr(GrpcDoor, "ModelStreamInfer", words_alone)
    with GrpcDoor().open() as url, pytest.raises(GenerationFailed, match=r"^flux_base: bug"):
        streamer.stream(url)


def test_a_slow_stream_exceeds_the_deadline_and_is_cancelled_on_the_server(streamer, stream_door):
    stream_door.pause_s = 8.0
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"no response from 127\.0\.0\.1:\d+ within 0\.3 s"):
        streamer.stream(stream_door.url, timeout_s=0.3)
    assert time.monotonic() - started < 2
    assert stream_door.hung_up.wait(5)


@pytest.mark.slow
def test_a_stream_without_a_server_or_a_response_fails(streamer):
    with pytest.raises(NotConnected, match=r"127\.0\.0\.1"):
        streamer.stream(nobody())
    with listening(say_nothing) as (url, _), pytest.raises(DeadlineExceeded, match=f"no response from {url}"):
        streamer.stream(url, timeout_s=0.5)
    with listening(reset) as (url, _), pytest.raises(Unreachable, match=url):
        streamer.stream(url, timeout_s=5.0)


@pytest.mark.parametrize("retried", [(Overloaded, NotConnected), (Unreachable,)])
def test_a_server_killed_during_a_stream_is_unreachable_without_a_retry(streamer, stream_door, retried):
    stream_door.pause_s = 8.0
    retry = RetryPolicy(first_delay_s=0.01, retried=retried)
    with cable(stream_door.url) as (url, cut), ThreadPoolExecutor(1) as pool:
        call = pool.submit(streamer.stream, url, retry=retry)
        while not (stream_door.requests or call.done()):
            time.sleep(0.01)
        time.sleep(0.2)
        cut()
        error = call.exception(5)
    assert type(error) is Unreachable
    assert "the connection broke before the response arrived" in str(error)
    assert len(stream_door.requests) == 1


def test_cancelling_from_another_thread_disconnects_at_once(stream_door):
    stream_door.pause_s = 8.0
    with FluxClient(stream_door.url) as client:
        stream = client.stream(IMAGE)
        next(stream)
        threading.Timer(0.1, stream.cancel).start()
        started = time.monotonic()
        with pytest.raises(Cancelled, match="the caller cancelled"):
            next(stream)
        assert stream_door.hung_up.wait(2)
        assert time.monotonic() - started < 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_client_disconnects_from_a_server_without_cancellation(stream_door, kind):
    stream_door.pause_s, stream_door.ignores_cancel = 8.0, True

    async def run():
        async with AsyncFluxClient(stream_door.url) as client:
            stream = client.stream(IMAGE)
            await anext(stream)
            stream.cancel()

    started = time.monotonic()
    if kind == "sync":
        with FluxClient(stream_door.url) as client:
            stream = client.stream(IMAGE)
            next(stream)
            stream.cancel()
    else:
        asyncio.run(run())
    assert stream_door.hung_up.wait(2)
    assert not stream_door.cancelled.is_set()
    assert 1.5 < time.monotonic() - started < 6


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_is_cancelled_by_a_message_and_the_server_ends_its_call(stream_door, kind):
    """The gRPC call itself is not cancelled, because Triton 2.51 has crashed on such cancellations."""
    stream_door.pause_s = 8.0

    async def run():
        async with AsyncFluxClient(stream_door.url) as client, client.stream(IMAGE) as stream:
            await anext(stream)

    if kind == "sync":
        with FluxClient(stream_door.url) as client, client.stream(IMAGE) as stream:
            next(stream)
    else:
        asyncio.run(run())
    assert stream_door.cancelled.is_set()
    assert stream_door.ended_well.wait(2)


def test_deleting_a_stream_cancels_it(stream_door):
    stream_door.pause_s = 8.0
    with FluxClient(stream_door.url) as client:
        for _ in client.stream(IMAGE):
            break
        assert stream_door.hung_up.wait(2)


def test_closing_the_client_cancels_its_streams(stream_door):
    stream_door.pause_s = 8.0
    client = FluxClient(stream_door.url)
    stream = client.stream(IMAGE)
    next(stream)
    client.close()
    with pytest.raises(Cancelled):
        next(stream)
    assert stream_door.hung_up.wait(2)


@pytest.mark.parametrize("events_before", [0, 1])
@pytest.mark.parametrize("how", ["cancel", "aclose", "drop", "task", "client"])
def test_ending_an_async_stream_early_cancels_it_at_once(stream_door, how, events_before):
    stream_door.pause_s = 8.0

    async def run():
        async with AsyncFluxClient(stream_door.url) as client:
            stream = client.stream(IMAGE)
            await stream.__aenter__()
            for _ in range(events_before):
                await anext(stream)
            while not stream_door.requests:
                await asyncio.sleep(0.01)
            if how == "drop":
                del stream
            elif how == "aclose":
                await stream.aclose()
            elif how == "client":
                await client.close()
            else:
                task = asyncio.create_task(_exhaust(stream))
                await asyncio.sleep(0.1)
                stream.cancel() if how == "cancel" else task.cancel()
                [outcome] = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 2)
                assert type(outcome) is (Cancelled if how == "cancel" else asyncio.CancelledError)
            return await asyncio.to_thread(stream_door.hung_up.wait, 2)

    assert asyncio.run(run())


async def _exhaust(stream):
    async for _ in stream:
        pass


def test_threads_stream_concurrently_from_one_client(stream_door):
    stream_door.pause_s = 0.1
    with FluxClient(stream_door.url) as client, ThreadPoolExecutor(8) as pool:
        started = time.monotonic()
        streams = list(pool.map(lambda _: list(client.stream(IMAGE)), range(8)))
        assert time.monotonic() - started < 2
    assert [len(events) for events in streams] == [5] * 8


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_streams_over_http_raise_an_error_that_names_grpc(kind):
    with pytest.raises(InvalidRequest, match=r"^streaming requires protocol='grpc'$"):
        Caller(kind, "http").stream("localhost:8000")


@pytest.mark.parametrize(
    "left_behind", ["client.stream(b'x')", "stream = client.stream(b'x')", "next(client.stream(b'x'))"]
)
def test_python_exits_at_once_with_an_open_stream(stream_door, left_behind):
    stream_door.pause_s = 8.0
    code = f"import flux_client\nclient = flux_client.FluxClient({stream_door.url!r})\n{left_behind}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=30)
