"""Decoding in child processes: same images, within a CPU budget, and stopped at once when cancelled."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import psutil
import pytest
from PIL import Image

from flux_contract.errors import Cancelled, InvalidRequest
from flux_contract.limits import MAX_IMAGE_PIXELS
from flux_serving.backend.image_decoder import Allowance, ImageDecoder
from flux_serving.images.image_decoding import TooMuchWork
from images import encoded, slow_jpeg

pytestmark = pytest.mark.slow

NOISE = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)


SMALL = encoded(Image.fromarray(NOISE))
SLOW = slow_jpeg(0)


@pytest.fixture
def decoder() -> Iterator[ImageDecoder]:
    decoder = ImageDecoder()
    yield decoder
    decoder.close()


def decode(decoder: ImageDecoder, encoded: bytes, allowance: Allowance | None = None) -> np.ndarray:
    return np.asarray(decoder.decode(encoded, MAX_IMAGE_PIXELS, "white", allowance or Allowance(60)))


def processes() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "decoding_process" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_decodes_image_as_in_this_process(decoder: ImageDecoder) -> None:
    np.testing.assert_array_equal(decode(decoder, SMALL), NOISE)
    with pytest.raises(InvalidRequest, match="not an image: starts with 'hello'"):
        decode(decoder, b"hello")
    assert len(processes()) == 1


def test_too_much_work_is_reported_before_decoding(decoder: ImageDecoder) -> None:
    started = time.process_time()
    with pytest.raises(TooMuchWork):
        decode(decoder, SLOW, Allowance(60, 2**24))
    assert time.process_time() - started < 1


def test_decoding_over_budget_is_stopped_and_rejected(decoder: ImageDecoder) -> None:
    with pytest.raises(InvalidRequest, match=r"images take more than 0\.5 s to decode"):
        decode(decoder, SLOW, Allowance(0.5))
    np.testing.assert_array_equal(decode(decoder, SMALL), NOISE)


def test_the_images_of_one_request_share_its_budget(decoder: ImageDecoder) -> None:
    allowance = Allowance(0.2)
    images = [encoded(Image.new("RGB", (4096, 4096)), "JPEG")] * 100
    with pytest.raises(InvalidRequest, match=r"images take more than 0\.2 s to decode"):
        list(map(partial(decode, decoder, allowance=allowance), images))


def test_decoding_of_cancelled_request_is_stopped(decoder: ImageDecoder) -> None:
    gone = threading.Event()
    threading.Timer(0.3, gone.set).start()
    allowance = Allowance(600, reason_to_stop=lambda: Cancelled("gone") if gone.is_set() else None)
    with pytest.raises(Cancelled, match="gone"):
        decode(decoder, SLOW, allowance)
    assert processes() == []


def test_other_images_are_decoded_meanwhile(decoder: ImageDecoder) -> None:
    gone = threading.Event()
    allowance = Allowance(600, reason_to_stop=lambda: Cancelled("gone") if gone.is_set() else None)

    def wait() -> None:
        with pytest.raises(Cancelled):
            decode(decoder, SLOW, allowance)

    slow = threading.Thread(target=wait)
    slow.start()
    for _ in range(20):
        np.testing.assert_array_equal(decode(decoder, SMALL), NOISE)
    assert slow.is_alive()
    gone.set()
    slow.join()


def test_a_process_that_was_killed_is_replaced(decoder: ImageDecoder) -> None:
    for _ in range(2):
        (process,) = processes()
        process.kill()
        np.testing.assert_array_equal(decode(decoder, SMALL), NOISE)


def test_rejects_image_that_kills_its_process_each_time(decoder: ImageDecoder) -> None:
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.05):
            for process in processes():
                with contextlib.suppress(psutil.Error):
                    if process.cpu_times().user > 0.6:
                        process.send_signal(signal.SIGSEGV)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(InvalidRequest, match="its decoder ended with exit status -11"):
            decode(decoder, SLOW)
    finally:
        done.set()
        killer.join()
    np.testing.assert_array_equal(decode(decoder, SMALL), NOISE)


def test_closing_leaves_no_process() -> None:
    decoder = ImageDecoder()
    decoder.close()
    assert processes() == []
