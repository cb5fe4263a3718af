"""FastAPI server of stock diffusers, as a typical first version: a sync endpoint with a lock around the pipelines.

Source: FastAPI's documentation, "Request Forms and Files", "Return a Response Directly" and "Concurrency and
async / await": a plain `def` endpoint runs in a thread pool, so PNGs are decoded and encoded while another
request denoises.
"""

from __future__ import annotations

import threading
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File, Form, Response

from flux_tools.bench.checkpoint import CHECKPOINTS
from flux_tools.bench.plan import ImageOptions
from flux_tools.bench.servers.options import Options
from flux_tools.bench.stock import StockDiffusers, as_png, opened

app = FastAPI()
stock = StockDiffusers(CHECKPOINTS)
one_at_a_time = threading.Lock()


@app.get("/health")
def health() -> None:
    """Return 200 once the pipelines are loaded."""


@app.post("/predict")
def predict(
    image: Annotated[bytes, File()],
    side: Annotated[int, Form()],
    steps: Annotated[int, Form()],
    seed: Annotated[int, Form()],
    mode: Annotated[str, Form()],
    prompt: Annotated[str, Form()],
) -> Response:
    decoded = opened(image)
    with one_at_a_time:
        generated = stock.draw(decoded, ImageOptions(0, side, steps, seed, mode, prompt))
    return Response(as_png(generated), media_type="image/png")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=Options.read().port, log_level="warning")
