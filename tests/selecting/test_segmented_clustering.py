"""Clustering over segments of time: where it is `dpc_knn`, what it finds where it is not, and what it costs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_clustering import LargestTensor

from dynfocus.selecting import events as events_module
from dynfocus.selecting.clustering import dpc_knn
from dynfocus.selecting.events import find_events
from dynfocus.selecting.segmented_clustering import segmented_dpc_knn

SMALL = {"num_neighbors": 5, "segment_tokens": 200, "num_candidates": 200}


def frames_of(event_of_frame, *, noise=0.1, width=32, seed=0):
    """Tokens `(N, width)` of planted events, which are as far apart as random directions."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(int(event_of_frame.max()) + 1, width, generator=generator)
    return means[event_of_frame] + noise * torch.randn(len(event_of_frame), width, generator=generator)


def stretches(lengths):
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


def short_visits(seed, num_frames=2000, num_events=10):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 30, (num_frames // 3,), generator=generator)
    return torch.randint(num_events, (len(lengths),), generator=generator).repeat_interleave(lengths)[:num_frames]


def with_flashes(seed, num_frames=2000):
    """Five long events, and five that last two frames, but come back ten times."""
    labels = stretches([num_frames // 5] * 5)
    places = torch.randperm(num_frames // 2, generator=torch.Generator().manual_seed(seed))[:50] * 2
    for event, place in enumerate(places.tolist()):
        labels[place : place + 2] = 5 + event % 5
    return labels


VIDEOS = {
    "even": lambda seed: stretches([200] * 10),
    "one long still stretch": lambda seed: stretches([20] * 5 + [1800] + [20] * 5),
    "all in one segment": lambda seed: stretches([900] + [10] * 9 + [1010]),
    "events that come again": short_visits,
    "flashes hours apart": with_flashes,
}


@settings(max_examples=40, deadline=None)
@given(st.integers(6, 80), st.integers(1, 6), st.integers(0, 10**6))
def test_one_segment_of_candidates_alone_is_exact(length, clusters, seed):
    tokens = torch.randn(length, 12, generator=torch.Generator().manual_seed(seed))
    labels, centers = segmented_dpc_knn(tokens, clusters, num_neighbors=4, segment_tokens=80, num_candidates=80)
    exact = dpc_knn(tokens[None], clusters, num_neighbors=4)
    assert torch.equal(centers, exact.centers[0])
    assert torch.equal(labels, exact.labels[0])


@pytest.mark.parametrize("kind", VIDEOS)
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_planted_events_are_found(kind, noise):
    for seed in range(3):
        event = VIDEOS[kind](seed)
        tokens = frames_of(event, noise=noise, seed=seed)
        labels, centers = segmented_dpc_knn(tokens, int(event.max()) + 1, **SMALL)
        assert event[centers].unique().tolist() == event.unique().tolist(), "each event has its centre"
        assert (event[centers][labels] == event).all()


def test_densities_are_those_among_all_frames():
    """A flash is sparse in its segment: its centre is chosen for its ten returns, over frames that never come back."""
    event = with_flashes(0)
    for number, place in enumerate(range(55, 2000, 190)):
        event[place] = 10 + number
    tokens = frames_of(event)
    _, centers = segmented_dpc_knn(tokens, 10, **SMALL)
    assert sorted(event[centers].tolist()) == list(range(10))


def test_a_still_video():
    tokens = torch.full((1000, 16), 0.3)
    labels, centers = segmented_dpc_knn(tokens, 4, **SMALL)
    assert centers.tolist() == [0, 1, 2, 3]
    assert labels.tolist() == [0, 1, 2, 3] + [0] * 996


@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_still_scenes_share_one_centre(offset):
    """Exact duplicates in other segments are at no distance, also where features have a large common offset."""
    event = short_visits(1, num_events=4)
    tokens = frames_of(event, noise=0.0) + offset
    labels, centers = segmented_dpc_knn(tokens, 4, **SMALL)
    assert sorted(event[centers].tolist()) == [0, 1, 2, 3]
    assert (event[centers][labels] == event).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_computes_in_float32(dtype):
    tokens = (frames_of(short_visits(0)) * 500).to(dtype)
    for half, wide in zip(*(segmented_dpc_knn(t, 10, **SMALL) for t in (tokens, tokens.float())), strict=True):
        assert torch.equal(half, wide)


def test_it_always_gives_the_same():
    tokens = frames_of(short_visits(2), noise=0.5)
    first, second = (segmented_dpc_knn(tokens, 25, **SMALL) for _ in range(2))
    assert all(map(torch.equal, first, second))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(map(torch.equal, first, segmented_dpc_knn(tokens, 25, **SMALL)))


def test_there_may_be_more_clusters_than_candidates():
    tokens = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    labels, centers = segmented_dpc_knn(tokens, 450, num_neighbors=5, segment_tokens=100, num_candidates=10)
    assert len(centers.unique()) == 450
    assert torch.equal(labels[centers], torch.arange(450))


def test_memory_does_not_grow_with_the_video(monkeypatch):
    monkeypatch.setattr("dynfocus.selecting.distances.SMALLEST_SLICE", 2**12)
    largest = []
    for frames in (1000, 8000):
        tokens = torch.randn(frames, 64)
        with LargestTensor() as measured:
            segmented_dpc_knn(tokens, 10, **SMALL)
        largest.append(measured.elements)
    assert largest[1] <= max(largest[0], 8000), "a few numbers a frame, and what a segment needs"


# ---- in DPE ----


def test_a_few_frames_are_clustered_exactly(monkeypatch):
    tokens = torch.randn(2, 60, 4, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(60) < torch.tensor([[60], [41]])
    counts = torch.tensor([7, 5])
    exact = find_events(tokens, mask, counts)
    monkeypatch.setattr(events_module, "EXACT_TOKENS", 60)
    at_the_limit = find_events(tokens, mask, counts)
    assert torch.equal(exact.event_of_frame, at_the_limit.event_of_frame)
    assert torch.equal(exact.prototypes, at_the_limit.prototypes)


def test_a_batch_of_long_and_short_videos_gives_what_they_give_alone(monkeypatch):
    monkeypatch.setattr(events_module, "EXACT_TOKENS", 60)
    lengths, counts = [90, 30, 61, 60], torch.tensor([9, 4, 25, 5])
    tokens = torch.full((4, 95, 4, 8), torch.nan)
    mask = torch.arange(95) < torch.tensor(lengths)[:, None]
    tokens[mask] = torch.randn(sum(lengths), 4, 8, generator=torch.Generator().manual_seed(0))
    together = find_events(tokens, mask, counts)
    assert torch.equal(together.event_of_frame >= 0, mask)
    for row, (length, count) in enumerate(zip(lengths, counts.tolist(), strict=True)):
        one = slice(row, row + 1)
        alone = find_events(tokens[one, :length], mask[one, :length], counts[one])
        assert torch.equal(alone.event_of_frame[0], together.event_of_frame[row, :length])
        assert torch.equal(alone.medoids[0], together.medoids[row, :count])
        assert torch.equal(alone.mask[0], together.mask[row, :count]) and not together.mask[row, count:].any()
        torch.testing.assert_close(alone.prototypes[0], together.prototypes[row, :count])


def test_features_on_another_device_are_moved_video_by_video(monkeypatch):
    """`cpu:0` stands for that device here."""
    tokens = torch.randn(2, 90, 4, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(90) < torch.tensor([[90], [41]])
    for exact_frames in (60, 100):
        monkeypatch.setattr(events_module, "EXACT_TOKENS", exact_frames)
        here = find_events(tokens, mask, torch.tensor([7, 5]))
        there = find_events(tokens, mask, torch.tensor([7, 5]), device=torch.device("cpu", 0))
        assert torch.equal(here.event_of_frame, there.event_of_frame)
        assert torch.equal(here.medoids, there.medoids)
        torch.testing.assert_close(here.prototypes, there.prototypes)


def test_long_events_are_differentiable_in_the_features(monkeypatch):
    monkeypatch.setattr(events_module, "EXACT_TOKENS", 60)
    tokens = torch.randn(1, 90, 4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    events = find_events(tokens, torch.ones(1, 90, dtype=torch.bool), torch.tensor([6]))
    events.prototypes.sum().backward()
    sizes = events.event_of_frame[0].bincount()
    expected = (1 / sizes[events.event_of_frame[0]]).view(90, 1, 1).expand(90, 4, 8)
    torch.testing.assert_close(tokens.grad[0], expected)
