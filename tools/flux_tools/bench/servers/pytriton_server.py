"""PyTriton server of stock diffusers, with Triton's dynamic batching.

Source: PyTriton's documentation, "Decorators" and "Binding Configuration", and its Stable Diffusion example: `@batch`,
then `@group_by_values` for the inputs that must be equal within a call, then `@first_value`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pytriton.decorators import batch, first_value, group_by_values
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from flux_tools.bench.checkpoint import CHECKPOINTS
from flux_tools.bench.plan import ImageOptions
from flux_tools.bench.servers.options import BATCH_WAIT_S, Options
from flux_tools.bench.stock import StockDiffusers, as_png, opened

stock = StockDiffusers(CHECKPOINTS)


@batch
@group_by_values("side", "steps", "mode")
@first_value("side", "steps", "mode")
def draw(
    image: npt.NDArray[np.object_],
    prompt: npt.NDArray[np.object_],
    seed: npt.NDArray[np.int64],
    side: int,
    steps: int,
    mode: bytes,
) -> dict[str, npt.NDArray[np.object_]]:
    jobs = [
        ImageOptions(0, int(side), int(steps), int(own_seed[0]), mode.decode(), own_prompt[0].decode())
        for own_seed, own_prompt in zip(seed, prompt, strict=True)
    ]
    drawn = stock.draw_all([opened(row[0]) for row in image], jobs)
    return {"drawn": np.array([[as_png(one)] for one in drawn], dtype=object)}


def main() -> None:
    options = Options.read()
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=options.port,
        grpc_address="127.0.0.1",
        grpc_port=options.grpc_port,
        metrics_address="127.0.0.1",
        metrics_port=options.metrics_port,
    )
    wait_us = int(BATCH_WAIT_S * 1e6) if options.batch > 1 else 0
    with Triton(config=config) as triton:
        triton.bind(
            model_name="flux",
            infer_func=draw,
            inputs=[
                *(Tensor(name=name, dtype=bytes, shape=(1,)) for name in ("image", "prompt", "mode")),
                *(Tensor(name=name, dtype=np.int64, shape=(1,)) for name in ("seed", "side", "steps")),
            ],
            outputs=[Tensor(name="drawn", dtype=bytes, shape=(1,))],
            config=ModelConfig(
                max_batch_size=options.batch, batcher=DynamicBatcher(max_queue_delay_microseconds=wait_us)
            ),
            strict=True,
        )
        triton.serve()


if __name__ == "__main__":
    main()
