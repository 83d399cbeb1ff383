"""DPE: frames become events, the question scores them, the best are kept; and what this does in the whole model."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_question_aware, of_videos, scenes, tiny_config, tiny_inputs, tiny_model

from dynfocus.configuration_dynfocus import PRESETS
from dynfocus.encoding.event_prototypes import EventPrototypeEstimator
from dynfocus.encoding.released_code import ReleasedEstimator, kmeans_start_frames
from dynfocus.selecting.events import Events, event_time_features, find_events
from dynfocus.selecting.focus import Focus

ESTIMATORS = {"dpc_knn": EventPrototypeEstimator, "kmeans": ReleasedEstimator}
METHODS = tuple(ESTIMATORS)
FRAMES_AND_EVENTS = st.integers(1, 14).flatmap(lambda frames: st.tuples(st.just(frames), st.integers(1, frames)))


@pytest.fixture(scope="module", params=PRESETS)
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def aware_model():
    """A model to which the question matters."""
    model = tiny_model()
    make_question_aware(model)
    return model


def features(num_frames, *, seed=0, tokens=4, width=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(num_frames), max(num_frames), tokens, width, generator=generator)


def mask_of(num_frames):
    return torch.arange(max(num_frames)) < torch.tensor(num_frames)[:, None]


def ask(model, pixels, plan, words, **kwargs):
    """Features of one video for one question, given as token ids."""
    with torch.no_grad():
        return model.get_video_features(
            pixel_values_videos=pixels,
            video_token_plan=torch.tensor([plan]),
            question_input_ids=torch.tensor([words]),
            **kwargs,
        )


def events_by(method, tokens, mask, counts):
    return ESTIMATORS[method](tiny_config()).find_events(tokens, mask, counts)


# ---- frames to events ----


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None)
@given(videos=st.lists(FRAMES_AND_EVENTS, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_events_divide_the_frames(method, videos, seed):
    num_frames, num_prototypes = zip(*videos, strict=True)
    tokens, mask = features(num_frames, seed=seed), mask_of(num_frames)
    events = events_by(method, tokens, mask, torch.tensor(num_prototypes))
    assert torch.equal(events.event_of_frame == -1, ~mask)
    assert events.mask.sum(1).tolist() == list(num_prototypes)
    for video, (frames, count) in enumerate(videos):
        labels, medoids = events.event_of_frame[video, :frames], events.medoids[video, :count].tolist()
        assert medoids == sorted(set(medoids)), "events are numbered in time order, each with its own frame"
        assert set(medoids) <= set(range(frames))
        for event in range(count):
            members = labels == event
            if method == "dpc_knn" or members.any():
                mean = tokens[video, :frames][members].mean(0)
                torch.testing.assert_close(events.prototypes[video, event], mean, atol=1e-5, rtol=0)
            if method == "dpc_knn":
                distance = (tokens[video, :frames] - mean).flatten(1).norm(dim=1)
                assert members[medoids[event]], "a medoid is a frame of its event"
                assert distance[medoids[event]] <= distance[members].min() + 1e-4, "the one nearest to its mean"


@pytest.mark.parametrize("method", METHODS)
def test_as_many_events_as_frames(method):
    tokens = features([6])
    events = events_by(method, tokens, mask_of([6]), torch.tensor([6]))
    assert torch.equal(events.event_of_frame, torch.arange(6)[None])
    assert torch.equal(events.medoids, torch.arange(6)[None])
    torch.testing.assert_close(events.prototypes, tokens)


def test_padding_does_not_change_the_events():
    tokens, mask, counts = features([9, 4, 1]), mask_of([9, 4, 1]), torch.tensor([4, 3, 1])
    together = find_events(tokens, mask, counts)
    for video, frames in enumerate([9, 4, 1]):
        row, count = slice(video, video + 1), int(counts[video])
        alone = find_events(tokens[row, :frames], mask[row, :frames], counts[row])
        assert torch.equal(alone.event_of_frame[0], together.event_of_frame[video, :frames])
        assert torch.equal(alone.medoids[0], together.medoids[video, :count])
        torch.testing.assert_close(alone.prototypes[0], together.prototypes[video, :count])


def test_start_frames_are_always_the_same():
    starts = kmeans_start_frames(100, 30)
    assert torch.equal(starts, kmeans_start_frames(100, 30))
    assert torch.equal(starts, starts.unique())
    assert not torch.equal(starts, torch.arange(30)), "spread over the video"


def test_still_scenes_become_events(aware_model):
    """Of redundant frames one event, whose frame is the first of them; a scene that comes back is the same event."""
    pixels = scenes(aware_model.config, [5, 2, 4, 3])
    found = ask(aware_model, pixels, [4, 2, 14], [5, 6, 7])
    assert found.event_of_frame[0].tolist() == [0] * 5 + [1] * 2 + [2] * 4 + [3] * 3
    assert found.event_medoids[0].tolist() == [0, 5, 7, 11]
    back = torch.cat([pixels, pixels[:, :5]], dim=1)
    assert ask(aware_model, back, [4, 2, 19], [5, 6, 7]).event_of_frame[0].tolist()[14:] == [0] * 5


def test_time_features_are_fractions_of_the_video():
    mask = mask_of([8, 4])
    labels = torch.tensor([[0, 0, 1, 1, 1, 0, 2, 2], [0, 1, 1, 1, -1, -1, -1, -1]])
    medoids, real = torch.tensor([[1, 3, 6], [0, 2, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    events = Events(labels, medoids, real, torch.zeros(2, 3, 1, 1))
    first, medoid, last, length = event_time_features(events, mask).unbind(-1)
    torch.testing.assert_close(first * 8, torch.tensor([[0.0, 2, 6], [0, 2, 0]]))
    torch.testing.assert_close(medoid * 8, torch.tensor([[1.0, 3, 6], [0, 4, 0]]))
    torch.testing.assert_close(last * 8, torch.tensor([[5.0, 4, 7], [0, 6, 0]]))
    torch.testing.assert_close(length * 8, torch.tensor([[3.0, 3, 2], [2, 6, 0]]))


# ---- score and selection ----


SCORES = torch.tensor([[0.1, 2.0, 0.4, 1.9, -1.0], [3.0, 3.0, 3.0, float("-inf"), float("-inf")]])
EVENTS = torch.tensor([[True] * 5, [True, True, True, False, False]])
NUM_KEY = torch.tensor([3, 2])


def choose(scores, mask, num_key, **options):
    frames = torch.arange(scores.shape[1]).expand_as(scores)
    events = Events(frames, frames, mask)
    return Focus.on_events(events, scores, num_key, torch.full_like(num_key, 5), num_samples=200, **options)


def test_hard_selection_takes_the_best_in_time_order():
    selection = choose(SCORES, EVENTS, NUM_KEY)
    assert selection.indicators is None
    assert selection.key_mask.tolist() == [[True, True, True], [True, True, False]]
    # Of equal scores the earlier events win.
    assert selection.key_events.tolist() == [[1, 2, 3], [0, 1, 0]]


def test_noise_never_moves_a_slot():
    """Whatever the noise, slots stand where the unperturbed top-K puts them: no frame twice, none shifted in time."""
    scores = SCORES.clone().requires_grad_()
    for seed in range(5):
        torch.manual_seed(seed)
        selection = choose(scores, EVENTS, NUM_KEY, sigma=2.0)
        assert selection.key_events.tolist() == [[1, 2, 3], [0, 1, 0]]
        weights = selection.indicators
        torch.testing.assert_close(weights.sum(-1), selection.key_mask.float())
        assert not weights[1, :, 3:].any(), "padding events are never chosen"
        assert (weights[0] > 0).sum() > 3, "the noise blends events"


def test_noise_that_is_almost_none_selects_hard():
    scores = SCORES[:1].clone().requires_grad_()
    selection = choose(scores, EVENTS[:1], NUM_KEY[:1], sigma=1e-6)
    expected = torch.nn.functional.one_hot(selection.key_events, 5).float()
    torch.testing.assert_close(selection.indicators, expected)


def test_without_gradients_there_is_no_noise():
    with torch.no_grad():
        assert choose(SCORES, EVENTS, NUM_KEY, sigma=2.0).indicators is None


class Taken:
    """Stands for `FrameQueries`: the queries of events whose medoids are all frames."""

    def __init__(self, queries):
        self.queries = queries

    def take(self, frames):
        return self.queries


def test_the_selection_learns_what_a_question_needs():
    """From the worth of the chosen events alone; a score that is blind to the question cannot learn it."""
    torch.manual_seed(0)
    width, num_prototypes = tiny_config().vision_config.hidden_size, 5
    prototypes = torch.randn(1, num_prototypes, 2, width).expand(2, -1, -1, -1)
    frames = torch.arange(num_prototypes).expand(2, -1)
    mask = torch.ones(2, num_prototypes, dtype=torch.bool)
    events = Events(frames, frames, mask, prototypes)
    queries = Taken(torch.randn(2, 1, 4, width).expand(-1, num_prototypes, -1, -1))
    tokens = torch.randn(1, num_prototypes, 6, width).expand(2, -1, -1, -1)
    wanted = torch.tensor([1, 3])

    def hits(estimator_class):
        torch.manual_seed(0)
        estimator = estimator_class(tiny_config())
        optimizer = torch.optim.Adam(estimator.parameters(), lr=5e-3)
        for _ in range(200):
            selection = choose(estimator(events, queries, tokens, mask), mask, torch.tensor([1, 1]), sigma=0.3)
            worth = selection.indicators[torch.arange(2), 0, wanted]
            optimizer.zero_grad()
            (-worth.mean()).backward()
            optimizer.step()
        selection = choose(estimator(events, queries, tokens, mask), mask, torch.tensor([1, 1]))
        return int((selection.key_events[:, 0] == wanted).sum())

    assert hits(EventPrototypeEstimator) == 2
    assert hits(ReleasedEstimator) <= 1


# ---- in the whole model ----


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(1, 16), data=st.data())
def test_key_frames_are_unique_sorted_medoids_of_their_events(model, frames, data):
    events = data.draw(st.integers(1, frames))
    plan = [events, data.draw(st.integers(1, events)), data.draw(st.integers(1, frames))]
    inputs = tiny_inputs(model.config, [frames], plans=[plan], seed=data.draw(st.integers(0, 99)))
    with torch.no_grad():
        found = model.get_video_features(**of_videos(inputs))
    key_frames, medoids, labels = found.key_frames[0], found.event_medoids[0], found.event_of_frame[0]
    assert key_frames.tolist() == sorted(set(key_frames.tolist()))
    assert len(key_frames) == plan[1]
    assert len(medoids) == events == len(found.event_scores[0])
    assert set(key_frames.tolist()) <= set(medoids.tolist())
    assert len(labels) == frames and found.event_scores[0].isfinite().all()
    # The K best events, not just any.
    scores, is_key = found.event_scores[0], torch.isin(medoids, key_frames)
    assert is_key.all() or scores[is_key].min() >= scores[~is_key].max()
    if model.config.preset == "default":
        assert torch.equal(labels[medoids], torch.arange(events))


QUESTIONS = [[5, 9, 14], [31, 8], [40, 41, 42, 43], [60], [22, 23, 7, 30, 11], [12, 13]]


def test_the_question_changes_the_key_frames(aware_model):
    pixels = scenes(aware_model.config, [2] * 8)
    answers = [ask(aware_model, pixels, [8, 2, 16], words) for words in QUESTIONS]
    assert len({tuple(found.key_frames[0].tolist()) for found in answers}) > 1
    # The events themselves belong to the video.
    assert all(torch.equal(found.event_of_frame[0], answers[0].event_of_frame[0]) for found in answers)
    assert all(torch.equal(found.event_medoids[0], answers[0].event_medoids[0]) for found in answers)


def test_a_score_blind_to_the_question_never_does(model):
    """In a new model of either preset; yet the rods answer to the question even then."""
    pixels = scenes(model.config, [2] * 8)
    found = [ask(model, pixels, [8, 2, 16], words) for words in QUESTIONS]
    assert len({tuple(answer.key_frames[0].tolist()) for answer in found}) == 1
    tokens = [answer.pooler_output[0] for answer in found]
    differences = [(first - second).abs().max() for first in tokens for second in tokens if first is not second]
    assert min(differences) > 1e-4


def test_visual_tokens_differ_from_a_dense_models(aware_model):
    """Where all frames are key frames there is nothing to select: the selection leaves out most of those tokens."""
    pixels = scenes(aware_model.config, [1] * 8)
    dense = ask(aware_model, pixels, [8, 8, 8], QUESTIONS[0])
    focused = ask(aware_model, pixels, [8, 2, 8], QUESTIONS[0])
    assert dense.key_frames[0].tolist() == list(range(8))
    assert len(dense.pooler_output[0]) == 8 * 40
    assert len(focused.pooler_output[0]) == 8 * 2 + 2 * 38
    # Key frames keep what they have in the dense model, the others their rods.
    blocks = dense.pooler_output[0].split(40)
    expected = [block if t in focused.key_frames[0] else block[38:] for t, block in enumerate(blocks)]
    torch.testing.assert_close(focused.pooler_output[0], torch.cat(expected), atol=1e-5, rtol=0)


def test_permuting_redundant_frames_does_not_change_the_answer(aware_model):
    """
    Frames of a still scene differ by noise alone: in which order they come must not matter. But the medoid stays, as
    its place in time is told to the score and is that of the cones.
    """
    lengths, plan = [4, 3, 5, 4], [4, 2, 16]
    pixels = scenes(aware_model.config, lengths, noise=1e-4)
    expected = ask(aware_model, pixels, plan, QUESTIONS[0])
    scene_of_frame = torch.arange(4).repeat_interleave(torch.tensor(lengths))
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        order = torch.arange(16)
        for frames in torch.arange(16).split(lengths):
            movable = frames[~torch.isin(frames, expected.event_medoids[0])]
            order[movable] = movable[torch.randperm(len(movable), generator=generator)]
        assert not torch.equal(order, torch.arange(16))
        found = ask(aware_model, pixels[:, order], plan, QUESTIONS[0])
        assert torch.equal(found.event_of_frame[0], expected.event_of_frame[0])
        assert torch.equal(scene_of_frame[found.key_frames[0]], scene_of_frame[expected.key_frames[0]])
        prompt = torch.tensor([[1] + [aware_model.config.video_token_id] * len(found.pooler_output[0]) + QUESTIONS[0]])
        answers = [
            aware_model.generate(
                input_ids=prompt,
                mm_encoder_outputs={"video": seen},
                max_new_tokens=5,
                do_sample=False,
                suppress_tokens=[aware_model.config.video_token_id],
            )
            for seen in (found, expected)
        ]
        assert torch.equal(*answers)


def test_permuting_identical_frames_changes_nothing(model):
    pixels = scenes(model.config, [3, 4, 2])
    swapped = pixels[:, [2, 0, 1, 6, 5, 4, 3, 8, 7]]
    first, second = (ask(model, video, [3, 1, 9], QUESTIONS[0]) for video in (pixels, swapped))
    assert torch.equal(first.key_frames[0], second.key_frames[0])
    assert torch.equal(first.pooler_output[0], second.pooler_output[0])


def test_soft_selection_with_almost_no_noise_is_the_hard_one(model):
    inputs = tiny_inputs(model.config, [9, 5])
    training = copy.deepcopy(model).train()
    outputs = []
    for sigma in (0.0, 1e-7):
        training.model.selection_sigma = sigma
        outputs.append(training.get_video_features(**of_videos(inputs)))
    for hard, soft in zip(*(output.pooler_output for output in outputs), strict=True):
        torch.testing.assert_close(hard, soft, atol=1e-5, rtol=0)
    for hard, soft in zip(*(output.key_frames for output in outputs), strict=True):
        assert torch.equal(hard, soft)
