"""Perturbed and hard top-K: the reference numbers, closed forms, and what must hold for any scores."""

import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from dynfocus.selecting.topk import hard_topk, min_max_normalize, perturbed_topk

REFERENCE = Path(os.environ.get("DYNFOCUS_REFERENCE_DIR", Path(__file__).parents[1] / "fixtures" / "reference"))


def random_scores(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator():
    return torch.Generator().manual_seed(0)


def normal_cdf(value):
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


# Against numbers and closed forms


def test_matches_the_reference():
    paths = []
    for path in sorted(REFERENCE.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if "sigma" in metadata:
            paths.append((path, metadata))
    assert paths, f"no perturbed top-K reference in {REFERENCE}"
    for path, metadata in paths:
        tensors = load_file(path)
        indicators = perturbed_topk(
            tensors["scores"], int(metadata["k"]), sigma=float(metadata["sigma"]), noise=tensors["noise"]
        )
        torch.testing.assert_close(indicators, tensors["expect.indicators"], atol=1e-4, rtol=0)


def test_full_gradient_is_the_score_function_estimator():
    """Written out over one-hot samples; the baseline is what the unperturbed selection is worth."""
    scores, noise, weight = random_scores(3, 7), random_scores(3, 20, 7, seed=1), random_scores(3, 3, 7, seed=2)

    def one_hot(values):
        return torch.nn.functional.one_hot(values.topk(3).indices.sort().values, 7).float()

    centered = one_hot(scores[:, None] + 0.3 * noise) - one_hot(scores)[:, None]
    expected = torch.einsum("bkl,bskl,bsm->bm", weight, centered, noise) / 20 / 0.3
    scores.requires_grad_()
    perturbed_topk(scores, 3, sigma=0.3, noise=noise).backward(weight)
    torch.testing.assert_close(scores.grad, expected)


@pytest.mark.parametrize("difference", [-0.2, 0.0, 0.07])
@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_top_1_of_2_is_a_normal_cdf(difference, sigma):
    """P(first) = Φ(d / (σ√2)), and its derivative the normal density; with the full gradient for both scores."""
    scores = torch.tensor([[difference, 0.0]], requires_grad=True)
    indicators = perturbed_topk(scores, 1, sigma=sigma, num_samples=200_000, generator=generator())
    scale = sigma * math.sqrt(2)
    expected = normal_cdf(difference / scale)
    torch.testing.assert_close(indicators, torch.tensor([[[expected, 1 - expected]]]), atol=5e-3, rtol=0)
    weight = torch.tensor([2.0, -1.0])
    (indicators[0, 0] * weight).sum().backward()
    slope = math.exp(-((difference / scale) ** 2) / 2) / math.sqrt(2 * math.pi) / scale
    assert scores.grad[0].tolist() == pytest.approx([3 * slope, -3 * slope], rel=0.03, abs=0.02)


def test_gradient_is_the_derivative_of_the_forward_mean():
    """Many samples: the gradient agrees with finite differences of the (smooth) forward mean."""
    weight, noise = random_scores(1, 2, 4, seed=3), random_scores(1, 200_000, 4, seed=4)
    scores = torch.tensor([[0.3, 0.0, 0.2, -0.1]], requires_grad=True)

    def value(at):
        return (perturbed_topk(at, 2, sigma=0.5, noise=noise) * weight).sum()

    value(scores).backward()
    with torch.no_grad():
        steps = 0.1 * torch.eye(4)
        numeric = torch.stack([(value(scores + step) - value(scores - step)) / 0.2 for step in steps])
    torch.testing.assert_close(scores.grad[0], numeric, atol=0.03, rtol=0)
    # Moving all scores together changes no selection.
    assert abs(scores.grad.sum()) < 0.03


# Properties


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 12), st.floats(0, 1), st.integers(0, 10**6), st.data())
def test_indicators_are_an_average_of_selections(batch, length, sigma, seed, data):
    k = data.draw(st.integers(1, length))
    indicators = perturbed_topk(random_scores(batch, length, seed=seed), k, sigma=sigma, num_samples=16)
    assert indicators.shape == (batch, k, length)
    torch.testing.assert_close(indicators.sum(-1), torch.ones(batch, k))
    assert indicators.sum(1).max() <= 1 + 1e-6
    # Slots are sorted by index: their mean positions rise.
    position = (indicators * torch.arange(length)).sum(-1)
    assert (position.diff(dim=-1) >= 1 - 1e-4).all()


@pytest.mark.parametrize("sigma", [0, 0.0, torch.tensor(0.0), torch.zeros(4)])
def test_sigma_zero_is_hard_topk_without_gradient(sigma):
    scores = random_scores(4, 9).requires_grad_()
    indicators = perturbed_topk(scores, 3, sigma=sigma, num_samples=7)
    assert torch.equal(indicators, torch.nn.functional.one_hot(hard_topk(scores, 3), 9).float())
    indicators.backward(torch.ones_like(indicators))
    assert (scores.grad == 0).all()


def test_batch_equals_single_rows():
    """Rows of different lengths, K and sigma, padded with -inf or NaN, give what they give alone."""
    lengths, ks, sigmas = [9, 4, 1], [5, 2, 1], torch.tensor([0.5, 0.2, 0.1])
    rows = [random_scores(n, seed=n) for n in lengths]
    noise, weight = random_scores(3, 50, 9, seed=1), random_scores(3, 5, 9, seed=2)
    for padding in (-torch.inf, torch.nan):
        scores = torch.full((3, 9), padding)
        mask = torch.arange(9) < torch.tensor(lengths)[:, None]
        scores[mask] = torch.cat(rows)
        scores.requires_grad_()
        k = torch.tensor(ks)
        indicators = perturbed_topk(scores, k, sigma=sigmas, noise=noise, mask=mask)
        indicators.backward(weight)
        chosen = hard_topk(scores, k, mask)
        assert indicators.shape == (3, 5, 9) and chosen.shape == (3, 5)
        for i, (row, n, num) in enumerate(zip(rows, lengths, ks, strict=True)):
            single = row[None].clone().requires_grad_()
            alone = perturbed_topk(single, num, sigma=sigmas[i].item(), noise=noise[i : i + 1, :, :n])
            alone.backward(weight[i : i + 1, :num, :n])
            assert torch.equal(indicators[i, :num, :n], alone[0])
            assert (indicators[i, num:] == 0).all() and (indicators[i, :, n:] == 0).all()
            torch.testing.assert_close(scores.grad[i, :n], single.grad[0])
            assert (scores.grad[i, n:] == 0).all()
            assert torch.equal(chosen[i, :num], hard_topk(row, num))
            assert (chosen[i, num:] == -1).all()


def test_fewer_entries_than_k():
    """What cannot be taken is an empty slot, never a masked entry."""
    scores = torch.tensor([[1.0, -torch.inf, 5.0, 2.0]])
    mask = torch.tensor([[True, True, False, False]])
    assert hard_topk(scores, 3, mask).tolist() == [[0, 1, -1]]
    indicators = perturbed_topk(scores, 3, sigma=0.5, mask=mask)
    assert indicators.tolist() == [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]]


def test_same_generator_same_result():
    scores = random_scores(2, 8)
    first, second = (perturbed_topk(scores, 3, sigma=0.3, num_samples=20, generator=generator()) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_computes_in_float32(dtype):
    scores, noise = random_scores(2, 8).to(dtype).requires_grad_(), random_scores(2, 40, 8, seed=1)
    indicators = perturbed_topk(scores, 3, sigma=0.3, noise=noise)
    assert indicators.dtype == dtype
    assert torch.equal(indicators, perturbed_topk(scores.float(), 3, sigma=0.3, noise=noise).to(dtype))
    indicators.sum().backward()
    assert scores.grad.isfinite().all()
    normalized = min_max_normalize(scores)
    assert normalized.dtype == dtype and normalized.isfinite().all()


def test_hard_topk_ties_go_to_the_lower_index():
    scores = torch.tensor([[1.0, 2, 2, 1, 2, 1]])
    assert hard_topk(scores, 2).tolist() == [[1, 2]]
    assert hard_topk(scores, 4).tolist() == [[0, 1, 2, 4]]
    assert hard_topk(torch.zeros(2, 3, 100), 5).tolist() == [[[0, 1, 2, 3, 4]] * 3] * 2
    indicators = perturbed_topk(torch.zeros(1, 100), 3, sigma=0)
    assert indicators.argmax(-1).tolist() == [[0, 1, 2]]


# Normalisation


def test_min_max_normalize_spans_0_to_1():
    scores = random_scores(3, 8) * 50 - 7
    mask = torch.arange(8) < torch.tensor([[8], [5], [1]])
    scores[1, 6] = torch.inf
    scores[2, 3] = torch.nan
    scores.requires_grad_()
    normalized = min_max_normalize(scores, mask)
    assert normalized[:2].amax(-1).tolist() == [1, 1] and normalized.amin(-1).tolist() == [0, 0, 0]
    assert (normalized[~mask] == 0).all() and (normalized[2] == 0).all()
    torch.testing.assert_close(normalized[1, :5], min_max_normalize(scores[1, :5]))
    normalized.square().sum().backward()
    assert scores.grad.isfinite().all() and (scores.grad[~mask] == 0).all()


def test_min_max_normalize_of_equal_scores():
    scores = torch.full((2, 4), 3.0, requires_grad=True)
    normalized = min_max_normalize(scores)
    assert (normalized == 0).all()
    normalized.sum().backward()
    assert scores.grad.isfinite().all()


def test_min_max_normalize_gradient():
    scores = random_scores(2, 5).double().requires_grad_()
    mask = torch.tensor([[True] * 5, [True, True, False, True, False]])
    assert torch.autograd.gradcheck(lambda s: min_max_normalize(s, mask), (scores,))


# Errors

SCORES = torch.zeros(2, 5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: hard_topk(SCORES, 6), "number of scores, 5; got 6"),
        (lambda: hard_topk(SCORES, 0), "got 0"),
        (lambda: hard_topk(SCORES, torch.tensor([1, 7])), "got 7"),
        (lambda: hard_topk(SCORES, torch.tensor([1])), r"k must be.*\(2,\).*\(1,\)"),
        (lambda: hard_topk(SCORES, 2, mask=torch.ones(2, 5)), "mask must be bool"),
        (lambda: perturbed_topk(SCORES[0], 2, sigma=0.1), r"\(B, L\).*\(5,\)"),
        (lambda: perturbed_topk(SCORES, 2, sigma=-0.1), "sigma must not be negative, got -0.1"),
        (lambda: perturbed_topk(SCORES, 2, sigma=torch.ones(3)), r"sigma.*\(2,\).*\(3,\)"),
        (lambda: perturbed_topk(SCORES, 2, sigma=0.1, num_samples=0), "num_samples.*got 0"),
        (lambda: perturbed_topk(SCORES, 2, sigma=0.1, noise=torch.zeros(2, 3, 4)), r"noise.*\(2, 3, 4\)"),
        (lambda: min_max_normalize(SCORES, torch.ones(5) > 0), r"mask.*\(2, 5\).*\(5,\)"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
