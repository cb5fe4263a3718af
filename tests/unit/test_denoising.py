"""Denoising steps compared with stock diffusers, for single images and for batches of different images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from flux_contract.errors import InvalidRequest
from flux_serving.conditioning.context import Context
from flux_serving.conditioning.span import ALWAYS, Span
from flux_serving.network.weights import BaseWeights
from flux_serving.sampling.denoising import Batch, Denoising
from flux_serving.sampling.sampler import Sampler
from flux_serving.sampling.sampler_inputs import SamplerInputs
from flux_serving.sampling.sampling_parameters import SamplingParameters
from stock import stock_latents
from tiny import CONTEXT_WIDTH, POOLED_WIDTH


def random_context(seed: int, tokens: int) -> Context:
    generator = torch.Generator().manual_seed(seed)
    return Context(
        torch.randn(tokens, CONTEXT_WIDTH, generator=generator),
        torch.ones(tokens),
        torch.randn(POOLED_WIDTH, generator=generator),
    )


def parameters(seed: int, steps: int, guidance: float, height: int = 4, width: int = 6) -> SamplingParameters:
    return SamplingParameters(height, width, steps, guidance, (seed,), first_step=0, end_step=steps)


@pytest.mark.parametrize("attention", ["mask", "merge"])
@pytest.mark.parametrize(("height", "width"), [(4, 6), (8, 8)])
def test_image_matches_diffusers(
    tiny_flux: FluxPipeline, tiny_base: BaseWeights, attention: str, height: int, width: int
) -> None:
    wanted = parameters(1, 5, 3.5, height, width)
    context = random_context(1, 9)
    context = Context(context.tokens, torch.tensor([40.0, *[1.0] * 8]), context.pooled)
    sampler = Sampler(tiny_base, attention)
    (work,) = sampler.begin(wanted, SamplerInputs(context))
    for _ in range(5):
        sampler.step([work])
    assert (work.latents.cpu() - stock_latents(tiny_flux, wanted, context)).abs().max() < 1e-5


def test_each_image_of_a_mixed_batch_matches_diffusers(tiny_flux: FluxPipeline, tiny_base: BaseWeights) -> None:
    """Images that join late or leave early, with different guidance, steps and context lengths."""
    sorts = [(1, 3, 4, 1.0), (2, 9, 7, 3.5), (3, 1, 4, 2.0)]
    wanted = [parameters(seed, steps, guidance) for seed, _, steps, guidance in sorts]
    contexts = [random_context(seed, tokens) for seed, tokens, _, _ in sorts]
    sampler = Sampler(tiny_base)
    first, second, third = (
        sampler.begin(one, SamplerInputs(context))[0] for one, context in zip(wanted, contexts, strict=True)
    )
    sampler.step([first])
    for _ in range(3):
        sampler.step([first, second, third])
    sampler.step([third, second])
    for _ in range(3):
        sampler.step([second])
    for work, *each in zip((first, second, third), wanted, contexts, strict=True):
        assert work.step == each[0].steps
        assert (work.latents.cpu() - stock_latents(tiny_flux, *each)).abs().max() < 1e-5


def spanned(seed: int, spans: list[tuple[float, float]], pooled_span: Span = ALWAYS) -> Context:
    context = random_context(seed, len(spans))
    return Context(context.tokens, context.weights, context.pooled, torch.tensor(spans), pooled_span)


@pytest.mark.parametrize("attention", ["mask", "merge"])
def test_tokens_with_spans_match_diffusers_in_a_shared_batch(
    tiny_flux: FluxPipeline, tiny_base: BaseWeights, attention: str
) -> None:
    """Tokens and pooled embeddings used early, late, in the middle or never, in a batch with different phases."""
    sorts = [
        (parameters(1, 8, 2.0), spanned(1, [(0, 1), (0, 0.5), (0, 0.5), (0.5, 1), (0.25, 0.75)], Span(0.0, 0.5))),
        (parameters(2, 8, 3.5), random_context(2, 3)),
        (parameters(3, 3, 1.0), spanned(3, [(0, 1), (0.5, 1), (0.4, 0.45)], Span(0.75, 1.0))),
    ]
    sampler = Sampler(tiny_base, attention)
    works = [sampler.begin(wanted, SamplerInputs(context))[0] for wanted, context in sorts]
    sampler.step(works[:1])
    for _ in range(3):
        sampler.step(works)
    for _ in range(4):
        sampler.step(works[:2])
    sampler.step(works[1:2])
    for work, sort in zip(works, sorts, strict=True):
        assert work.step == sort[0].steps
        assert (work.latents.cpu() - stock_latents(tiny_flux, *sort)).abs().max() < 1e-5


def test_phases_without_a_difference_are_merged() -> None:
    """Tokens with a span between two steps or with weight 0 do not start a phase."""
    spans = torch.tensor([[0, 1], [0, 0.5], [0.41, 0.42], [0.3, 1]])
    context = Context(torch.randn(4, 3), torch.tensor([1.0, 1, 1, 0]), torch.zeros(2), spans, Span(0.5, 1.0))
    phases = context.condensed().phases(10)
    assert [(phase.first_step, phase.end_step, len(phase.index), phase.is_pooled) for phase in phases] == [
        (0, 5, 2, False),
        (5, 10, 1, True),
    ]


def test_full_spans_give_the_same_image_as_no_spans(tiny_base: BaseWeights) -> None:
    plain = random_context(1, 4)
    always = Context(plain.tokens, plain.weights, plain.pooled, torch.tensor([[0.0, 1.0]] * 4))
    sampler = Sampler(tiny_base)
    images = []
    for context in (plain, always):
        (work,) = sampler.begin(parameters(1, 3, 1.0), SamplerInputs(context))
        for _ in range(3):
            sampler.step([work])
        images.append(work.latents)
    assert torch.equal(*images)


def test_rejects_context_without_tokens(tiny_base: BaseWeights) -> None:
    nothing = Context(torch.randn(2, CONTEXT_WIDTH), torch.zeros(2), torch.randn(POOLED_WIDTH))
    with pytest.raises(InvalidRequest, match="CONTEXT_WEIGHTS are all 0 at step 0"):
        Sampler(tiny_base).begin(parameters(1, 4, 1.0), SamplerInputs(nothing))


def test_rejects_context_without_tokens_at_some_step(tiny_base: BaseWeights) -> None:
    with pytest.raises(InvalidRequest, match="CONTEXT_WEIGHTS are all 0 at step 2, expected at least one above 0"):
        Sampler(tiny_base).begin(parameters(1, 4, 1.0), SamplerInputs(spanned(1, [(0, 0.5), (0.75, 1)])))


@pytest.mark.parametrize("spans", [[(0, 1)] * 4, [(0, 1), (0, 0.5), (0.5, 1), (1 / 3, 1)]])
def test_run_split_in_two_gives_the_same_image(tiny_base: BaseWeights, spans: list[tuple[float, float]]) -> None:
    """The run is split at the end of one phase and in the middle of another."""
    sampler, context = Sampler(tiny_base), spanned(1, spans)
    whole = SamplingParameters(4, 6, 6, 2.0, (1, 2), first_step=0, end_step=6)
    works = sampler.begin(whole, SamplerInputs(context))
    for _ in range(6):
        sampler.step(works)
    first = SamplingParameters(4, 6, 6, 2.0, (1, 2), first_step=0, end_step=2)
    begun = sampler.begin(first, SamplerInputs(context), is_decoded=False)
    for _ in range(2):
        sampler.step(begun)
    halves = sampler.results(begun)
    assert [half.rgb for half in halves] == [None, None]
    second = SamplingParameters(4, 6, 6, 2.0, (8, 9), first_step=2, end_step=6)
    resumed = Sampler(tiny_base).begin(
        second, SamplerInputs(context, initial_latents=np.stack([half.latents for half in halves]))
    )
    for _ in range(4):
        sampler.step(resumed)
    for one, other in zip(works, resumed, strict=True):
        assert torch.equal(one.latents, other.latents)


def test_non_finite_latents_end_only_the_affected_image(tiny_base: BaseWeights) -> None:
    sampler = Sampler(tiny_base)
    good, bad = (sampler.begin(parameters(seed, 4, 1.0), SamplerInputs(random_context(seed, 3)))[0] for seed in (1, 2))
    (alone,) = sampler.begin(parameters(1, 4, 1.0), SamplerInputs(random_context(1, 3)))
    bad.latents[0, 0] = float("nan")
    failures = sampler.step([good, bad])
    assert failures[0] is None
    assert "not finite" in str(failures[1])
    sampler.step([alone])
    assert (good.latents - alone.latents).abs().max() < 1e-6


def test_failed_step_changes_no_image(tiny_base: BaseWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(tiny_base)
    (work,) = sampler.begin(parameters(1, 4, 1.0), SamplerInputs(random_context(1, 3)))
    before = work.latents.clone()

    def fail(self: Batch) -> list[bool]:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "step", fail)
        with pytest.raises(MemoryError):
            sampler.step([work])
    assert work.step == 0
    assert torch.equal(work.latents.cpu(), before)
    sampler.step([work])
    assert work.step == 1


def test_estimate_after_the_last_step_is_the_image(tiny_base: BaseWeights) -> None:
    sampler = Sampler(tiny_base)
    (work,) = sampler.begin(parameters(1, 3, 1.0), SamplerInputs(random_context(1, 3)))
    noisy: Denoising = work
    assert torch.equal(noisy.estimate, noisy.latents)
    for _ in range(3):
        sampler.step([work])
    assert torch.allclose(work.estimate, work.latents)


def test_stock_transformer_still_runs(tiny_flux: FluxPipeline, tiny_base: BaseWeights) -> None:
    """Its weights are views of fused weights."""
    before = stock_latents(tiny_flux, parameters(1, 2, 1.0), random_context(1, 3))
    Sampler(tiny_base)
    assert torch.equal(stock_latents(tiny_flux, parameters(1, 2, 1.0), random_context(1, 3)), before)


def test_equal_context_tokens_are_merged_and_their_weights_added() -> None:
    a, b, c = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(8)
    tokens = torch.stack([zero, a, zero, b, a, zero, c])
    context = Context(tokens, torch.tensor([1.0, 1, 1, 1, 0.5, 1, 0]), torch.zeros(2)).condensed()
    assert torch.equal(context.tokens, torch.stack([zero, a, b]))
    assert context.weights.tolist() == [3, 1.5, 1]


def test_heaviest_tokens_come_first_and_tokens_of_weight_1_last() -> None:
    tokens = torch.arange(5.0)[:, None].expand(5, 4)
    context = Context(tokens, torch.tensor([1.0, 0.5, 512, 1, 2]), torch.zeros(2)).condensed()
    assert context.weights.tolist() == [512, 2, 0.5, 1, 1]
    assert context.tokens[:, 0].tolist() == [2, 4, 1, 0, 3]
