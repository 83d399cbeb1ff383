"""Rules of choice: each against its formula written once more in plain loops, and what must hold for any scores."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynfocus.selecting import rules
from dynfocus.selecting.rules import RULES, events_of_peaks, given_frames, peaks, random, topk, uniform

ALL = {**RULES, "random": random(3)}
# Small whole numbers: ties are frequent, and sums and distances are exact.
SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=24)


def chosen(rule, scores, num_key, features=None, times=None):
    scores = torch.as_tensor(scores, dtype=torch.float32)
    features = made_up(len(scores)) if features is None else torch.as_tensor(features, dtype=torch.float32)
    times = torch.arange(len(scores)) / 2 if times is None else torch.as_tensor(times)
    return rule(scores, num_key, features=features, times=times)


def made_up(length, width=6, seed=0):
    features = torch.randn(length, width, generator=torch.Generator().manual_seed(seed))
    return features / features.norm(dim=-1, keepdim=True)


# The formulas, frame by frame


def scaled(scores):
    low, high = min(scores), max(scores)
    return [(s - low) / (high - low) if high > low else 0.0 for s in scores]


def middles(length, count):
    return [int(np.floor((k + 0.5) * length / count)) for k in range(count)]


def covered(taken, count, times, weights=None):
    taken, weights = list(taken), weights or [1.0] * len(times)
    while len(taken) < count:
        rest = [i for i in range(len(times)) if i not in taken]
        worth = {i: min(abs(times[i] - times[j]) for j in taken) * weights[i] for i in rest}
        # Equal but for the last digits.
        taken.append(min(i for i in rest if worth[i] >= max(worth.values()) * (1 - 1e-6)))
    return sorted(taken)


def topk_by_formula(scores, count, features, times):
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])


def uniform_by_formula(scores, count, features, times):
    return middles(len(scores), count)


def best_peaks(r, count, features):
    rank = []
    for i in range(len(r)):
        squared = [((features[i] - features[j]) ** 2).sum() for j in range(len(r))]
        more = [squared[j] for j in range(len(r)) if r[j] > r[i] or (r[j] == r[i] and j < i)]
        rank.append(r[i] * (min(more) if more else max(squared)))
    best = sorted((i for i in range(len(r)) if rank[i] > 0), key=lambda i: (-rank[i], i))[:count]
    return best or [r.index(1)]


def peaks_by_formula(scores, count, features, times):
    r = scaled(scores)
    return covered(best_peaks(r, count, features), count, times) if any(r) else middles(len(scores), count)


def context_by_formula(scores, count, features, times):
    r = scaled(scores)
    if not any(r):
        return middles(len(scores), count)
    moments = best_peaks(r, -(-count // 4), features)
    step = (times[-1] - times[0]) / (len(times) - 1) or 1
    p = max(1, 16 / count)
    near = [sum(r[i] ** 8 / (1 + abs(t - times[i]) / step) ** p for i in moments) for t in times]
    return covered(moments, count, times, near)


def its_by_formula(scores, count, features, times):
    p = [value**2 for value in scaled(scores)]
    if not any(p):
        return middles(len(p), count)
    taken = set()
    for k in range(count):
        quantile, below = (k + 0.5) / count * sum(p), 0.0
        for i, share in enumerate(p):
            below += share
            if below >= quantile:
                taken.add(i)
                break
    return covered(sorted(taken), count, times)


def aks_by_formula(scores, count, features, times):
    parts, r, taken = [(list(range(len(scores))), count, 0)], scaled(scores), []
    while parts:
        frames, wanted, depth = parts.pop()
        best = sorted(frames, key=lambda i: (-r[i], i))[:wanted]
        stands_out = np.mean([r[i] for i in best]) - np.mean([r[i] for i in frames]) > 0.8
        if wanted == 1 or depth == 5 or stands_out:
            taken += best
        else:
            half = len(frames) // 2
            parts += [(frames[:half], wanted // 2, depth + 1), (frames[half:], wanted - wanted // 2, depth + 1)]
    return sorted(taken)


def mmr_by_formula(scores, count, features, times):
    r = scaled(scores)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    taken = [r.index(max(r))]
    while len(taken) < count:
        worth = {
            i: r[i] / 2 - max(float(unit[i] @ unit[j]) for j in taken) / 2 for i in range(len(r)) if i not in taken
        }
        # Duplicates tie but for the last digits.
        best = max(worth.values())
        taken.append(min(i for i in worth if worth[i] > best - 1e-6))
    return sorted(taken)


FORMULAS = {
    "peaks": peaks_by_formula,
    "context": context_by_formula,
    "uniform": uniform_by_formula,
    "topk": topk_by_formula,
    "its": its_by_formula,
    "aks": aks_by_formula,
    "mmr": mmr_by_formula,
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("length, num_key", [(1, 1), (7, 3), (60, 8), (60, 11), (150, 64), (40, 40)])
def test_a_rule_follows_its_formula(name, length, num_key):
    for seed in range(4 if length < 100 else 1):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(length, generator=generator)
        features, times = made_up(length, seed=seed), torch.rand(length, generator=generator).cumsum(0)
        found = chosen(RULES[name], scores, num_key, features, times).tolist()
        # float64 of the same numbers: what is compared lies far apart.
        assert found == FORMULAS[name](scores.double().tolist(), num_key, features.double().numpy(), times.tolist())


@pytest.mark.parametrize("name", RULES)
@given(scores=SCORES, num_key=st.integers(1, 30), looks=st.lists(st.integers(0, 3), min_size=24, max_size=24))
@settings(max_examples=60, deadline=None)
def test_ties_go_to_the_lowest_frame(name, scores, num_key, looks):
    """Few levels of score and four different pictures: nearly everything ties."""
    features = torch.eye(4)[looks[: len(scores)]]
    count = min(num_key, len(scores))
    expected = FORMULAS[name]([float(s) for s in scores], count, features.double().numpy(), list(range(len(scores))))
    if name == "its" and len(set(scores)) > 1:
        # Quantiles may fall on the border of two frames, where the last digit decides.
        scores = [s + 0.01 * (i + 1) ** 0.5 for i, s in enumerate(scores)]
        expected = its_by_formula(scores, count, None, list(range(len(scores))))
    found = chosen(RULES[name], scores, num_key, features, torch.arange(len(scores)))
    assert found.tolist() == expected


# What holds for every rule


@pytest.mark.parametrize("name", ALL)
@given(
    scores=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    num_key=st.integers(1, 50),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_exactly_k_distinct_frames_in_order(name, scores, num_key, seed):
    scores = torch.tensor(scores, dtype=torch.float64)
    features, times = made_up(len(scores), seed=seed), torch.arange(len(scores))
    found = ALL[name](scores, num_key, features=features, times=times)
    assert found.dtype == torch.int64 and found.shape == (min(num_key, len(scores)),)
    assert found.tolist() == sorted(set(found.tolist()))
    assert 0 <= found[0] and found[-1] < len(scores)
    assert torch.equal(found, ALL[name](scores, num_key, features=features, times=times))


@pytest.mark.parametrize("name", RULES)
def test_scale_and_offset_of_relevance_do_not_matter(name):
    scores = torch.randint(0, 64, (50,), generator=torch.Generator().manual_seed(1)).float()
    assert torch.equal(chosen(RULES[name], scores, 9), chosen(RULES[name], 0.25 * scores - 4, 9))


@pytest.mark.parametrize("name", RULES)
def test_half_precision_in_gives_frames_out(name):
    scores, features = torch.rand(30, generator=torch.Generator().manual_seed(2)).half(), made_up(30).half()
    found = RULES[name](scores, 5, features=features, times=torch.arange(30))
    assert torch.equal(found, chosen(RULES[name], scores.float(), 5, features.float(), torch.arange(30)))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_relevance_that_is_not_finite_is_refused(name, bad):
    scores = torch.zeros(9)
    scores[[4, 6]] = bad
    with pytest.raises(ValueError, match=r"^relevance must be finite, but .* at 2 of 9 frames, first at frame 4\.$"):
        chosen(ALL[name], scores, 3)


@pytest.mark.parametrize("name", ["peaks", "context", "mmr"])
def test_features_that_are_not_finite_are_refused(name):
    features = made_up(9)
    features[5, 1] = torch.nan
    with pytest.raises(ValueError, match=r"^features must be finite, .* at 1 of 9 frames, first at frame 5\.$"):
        chosen(RULES[name], range(9), 3, features)


@pytest.mark.parametrize("name", ALL)
def test_wrong_shapes_are_refused(name):
    scores, features, times = torch.zeros(5), made_up(5), torch.arange(5)
    for changed, message in [
        ({"relevance": torch.zeros(0)}, r"at least one frame, got \(0,\)"),
        ({"relevance": torch.zeros(5, 1)}, r"relevance must be of shape \(T,\)"),
        ({"features": made_up(4)}, r"features must be of shape \(5, D\), got \(4, 6\)"),
        ({"times": torch.arange(6)}, r"times must be of shape \(5,\), got \(6,\)"),
        ({"num_key": 0}, "num_key must be at least 1, got 0"),
    ]:
        arguments = {"relevance": scores, "num_key": 2, "features": features, "times": times} | changed
        with pytest.raises(ValueError, match=message):
            ALL[name](**arguments)


# Flat scores, duplicates, long videos


@pytest.mark.parametrize("name", ["peaks", "context", "its"])
@pytest.mark.parametrize("level", [0.0, 0.3, -1e30])
def test_flat_relevance_covers_the_video(name, level):
    scores = torch.full((100,), level)
    assert torch.equal(chosen(RULES[name], scores, 7), chosen(uniform, scores, 7))
    # Also where nothing but rounding makes a difference.
    assert torch.equal(chosen(RULES[name], scores * (1 + 1e-7 * made_up(100)[:, 0]), 7), chosen(uniform, scores, 7))


def test_aks_takes_what_stands_out_and_else_splits_time():
    scores = torch.zeros(100)
    scores[10:14] = 1
    assert chosen(RULES["aks"], scores, 4).tolist() == [10, 11, 12, 13]
    scores[60:90] = 0.9
    assert (
        chosen(RULES["aks"], scores, 4).tolist() == aks_by_formula(scores.tolist(), 4, None, None) == [10, 11, 60, 75]
    )


def test_peaks_of_one_relevant_frame_cover_the_rest_in_time():
    scores = torch.zeros(101)
    scores[30] = 1
    assert chosen(peaks, scores, 4, times=torch.arange(101)).tolist() == [0, 30, 65, 100]


def test_context_shows_a_moment_several_times_and_the_rest_less_and_less():
    scores = torch.zeros(101)
    scores[30] = 1
    found = chosen(RULES["context"], scores, 16, times=torch.arange(101) / 25).tolist()
    assert found == [0, 15, 19, 23, 25, 27, 29, 30, 31, 32, 34, 38, 47, 56, 65, 100]
    # Few frames stay close to the moment.
    near = [chosen(RULES["context"], scores, count).tolist() for count in (2, 4, 8)]
    assert near == [[29, 30], [28, 29, 30, 31], [23, 27, 28, 29, 30, 31, 32, 33]]
    # Of two moments, the better one gets more.
    for other, near in [(1.0, (7, 6)), (0.8, (10, 3)), (0.4, (12, 1))]:
        scores[70] = other
        found = chosen(RULES["context"], scores, 16)
        assert [int(((found - moment).abs() <= 15).sum()) for moment in (30, 70)] == list(near)


def test_peaks_take_each_still_scene_once_before_they_cover_time():
    """Three stills, of which the second is the longest; duplicates have distance 0 to the last bit."""
    features = made_up(3, width=768)[torch.tensor([0] * 20 + [1] * 70 + [2] * 10)]
    scores = torch.rand(100, generator=torch.Generator().manual_seed(0))
    best = [int(scores[:20].argmax()), 20 + int(scores[20:90].argmax()), 90 + int(scores[90:].argmax())]
    assert chosen(peaks, scores, 3, features).tolist() == best
    assert set(best) < set(chosen(peaks, scores, 12, features).tolist())


def test_where_all_frames_look_alike_the_most_relevant_is_taken_and_the_rest_covers_time():
    scores = torch.rand(101, generator=torch.Generator().manual_seed(0))
    scores[30] = 2
    assert chosen(peaks, scores, 4, torch.ones(101, 4), torch.arange(101)).tolist() == [0, 30, 65, 100]


def test_peaks_of_hours_are_those_of_the_formula(monkeypatch):
    """Distances in blocks give what the whole matrix gives, and no matrix is larger than the bound."""
    scores, features = torch.rand(300, generator=torch.Generator().manual_seed(0)), made_up(300, 16)
    whole = chosen(peaks, scores, 20, features), events_of_peaks(features, chosen(peaks, scores, 20, features))
    monkeypatch.setattr(rules, "_CHUNK_ELEMENTS", 1000)
    blocks = chosen(peaks, scores, 20, features), events_of_peaks(features, chosen(peaks, scores, 20, features))
    assert torch.equal(whole[0], blocks[0]) and torch.equal(whole[1], blocks[1])


# Events, given frames, random frames


def test_each_frame_belongs_to_the_nearest_peak():
    features, keys = made_up(40), torch.tensor([3, 17, 18, 30])
    event = events_of_peaks(features, keys)
    assert event.tolist() == [int(((features[keys] - row) ** 2).sum(-1).argmin()) for row in features]
    assert event[keys].tolist() == [0, 1, 2, 3]


def test_peaks_that_duplicate_each_other_keep_their_own_events():
    features = torch.eye(3)[[0, 0, 1, 0, 2]]
    assert events_of_peaks(features, torch.tensor([0, 2, 3])).tolist()[:4] == [0, 0, 1, 2]


def test_told_gives_what_it_was_told():
    assert chosen(given_frames([7, 2, 4]), torch.zeros(9), 5).tolist() == [2, 4, 7]
    for frames, message in [
        ([], "at least one frame number"),
        ([1, 1], "distinct"),
        ([3, 9], "Frame 9 does not exist: the video's frames are 0 to 8"),
        ([-1, 3], "Frame -1 does not exist"),
        ([1, 2, 3], "3 frames were given, but only 2 can be key frames"),
    ]:
        with pytest.raises(ValueError, match=message):
            chosen(given_frames(frames), torch.zeros(9), 2)


def test_random_depends_on_its_seed_alone():
    first, other = chosen(random(0), torch.zeros(500), 20), chosen(random(1), torch.zeros(500), 20)
    torch.manual_seed(5)
    assert torch.equal(first, chosen(random(0), torch.arange(500.0), 20)) and not torch.equal(first, other)


# Made-up videos: scenes of random length, some of which hold evidence


def world(rng, needed, gap, length=500, scenes=40, width=48):
    """Scores `(T,)`, features `(T, D)`, the scene of each frame, and the scenes that hold evidence."""
    cuts = np.sort(rng.choice(np.arange(3, length - 3), scenes - 1, replace=False))
    scene = np.searchsorted(cuts, np.arange(length), side="right")
    drift = np.cumsum(rng.normal(size=(length, width)), 0) / 50
    features = rng.normal(size=(scenes, width))[scene] + 0.35 * rng.normal(size=(length, width)) + drift
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    evidence = rng.choice(scenes, needed, replace=False)
    # Similarities as of a dual encoder: small differences, noisy from frame to frame, and by scene.
    scores = (0.2 + 0.02 * rng.normal(size=scenes))[scene] + 0.03 * rng.normal(size=length)
    return scores + gap * np.isin(scene, evidence), features, scene, evidence


@functools.cache
def found_share(rule, gap, needed=3, num_key=16, worlds=150):
    """Mean share of the scenes with evidence that hold a key frame."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(worlds):
        scores, features, scene, evidence = world(rng, needed, gap)
        hit = set(scene[chosen(rule, scores, num_key, features).numpy()].tolist())
        shares.append(np.mean([one in hit for one in evidence]))
    return float(np.mean(shares))


def test_peaks_find_several_moments_where_topk_finds_one_again_and_again():
    assert found_share(peaks, gap=0.04) > found_share(topk, gap=0.04) + 0.08
    assert found_share(peaks, gap=0.04) > found_share(uniform, gap=0.04) + 0.3


def test_without_signal_peaks_are_as_good_as_uniform_and_topk_is_worse():
    assert abs(found_share(peaks, gap=0.0) - found_share(uniform, gap=0.0)) < 0.08
    assert found_share(topk, gap=0.0) < found_share(uniform, gap=0.0) - 0.1
