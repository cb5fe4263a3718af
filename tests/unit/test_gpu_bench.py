"""The GPU benchmark times the same work for stock diffusers and this engine, on any device."""

from __future__ import annotations

import pytest
import torch

from flux_tools.gpu.__main__ import TINY, decoding, steps
from flux_tools.gpu.contestants import Ours, run_stock
from flux_tools.gpu.networks import make_pipeline

pytestmark = pytest.mark.slow


def test_both_contestants_generate_equal_latents_and_table_rows() -> None:
    pipeline = make_pipeline(torch.device("cpu"), torch.float32, **TINY)
    stock = run_stock(pipeline, side=64, rows=2, steps=3)
    ours = Ours(pipeline)
    course = ours.run(side=64, rows=2, steps=3)
    assert course.latents.shape == (2, 16, 64)
    assert len(stock.step_seconds) == len(course.step_seconds) == 3
    assert float((course.latents - stock.latents).abs().max()) < 1e-5
    assert float(stock.latents.std()) == pytest.approx(1, abs=0.5)
    assert steps(pipeline, ours, [(64, 1)]).splitlines()[-1].startswith("| 64x64 | 1 |")
    assert decoding(ours, [64]).splitlines()[-1].startswith("| 64x64 |")
