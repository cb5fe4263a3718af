"""LitServe server of stock diffusers.

Source: LitServe's documentation, "LitAPI", "Batching" and "Request, response format": the image is a form file,
`predict` gets the whole batch, `encode_response` returns a Response with the image's bytes. `timeout=False`, because
the default of 30 s would reject requests that wait in a long queue.

No `from __future__ import annotations` here: LitServe compares the annotation of `decode_request` with the class.
"""

import litserve
from fastapi import Request, Response
from PIL import Image

from flux_tools.bench.checkpoint import CHECKPOINTS
from flux_tools.bench.plan import ImageOptions
from flux_tools.bench.servers.options import BATCH_WAIT_S, Options
from flux_tools.bench.stock import StockDiffusers, as_png, by_kind, opened

Order = tuple[Image.Image, ImageOptions]


class FluxAPI(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.stock = StockDiffusers(CHECKPOINTS)

    def decode_request(self, request: Request) -> Order:
        form = request
        job = ImageOptions(0, int(form["side"]), int(form["steps"]), int(form["seed"]), form["mode"], form["prompt"])
        return opened(form["image"].file.read()), job

    def batch(self, inputs: list[Order]) -> list[Order]:
        return inputs

    def unbatch(self, output: list[Image.Image]) -> list[Image.Image]:
        return output

    def predict(self, orders: Order | list[Order]) -> Image.Image | list[Image.Image]:
        """Generate one order or, with batching, a list of orders. Orders of one kind share a pipeline call."""
        if isinstance(orders, tuple):
            return self.stock.draw(*orders)
        generated: dict[int, Image.Image] = {}
        for group in by_kind((index, job) for index, (_, job) in enumerate(orders)):
            images = self.stock.draw_all([orders[index][0] for index, _ in group], [job for _, job in group])
            generated.update(zip((index for index, _ in group), images, strict=True))
        return [generated[index] for index in range(len(orders))]

    def encode_response(self, output: Image.Image) -> Response:
        return Response(as_png(output), media_type="image/png")


if __name__ == "__main__":
    options = Options.read()
    api = FluxAPI(max_batch_size=options.batch, batch_timeout=BATCH_WAIT_S if options.batch > 1 else 0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)
