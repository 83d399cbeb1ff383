"""DPE and CCE of long videos: chunks change nothing, a shared state is as separate ones, memory is bounded."""

import copy
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_focus import token_order
from tiny_models import make_question_aware, of_videos, tiny_inputs, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynfocus.configuration_dynfocus import PRESETS
from dynfocus.processing.token_plan import TokenBudget
from dynfocus.selecting import events as events_module
from dynfocus.states.video_state import VideoState

LISTS = ("pooler_output", "key_frames", "event_of_frame", "event_scores", "event_medoids")
QUESTIONS = torch.tensor([[5, 9, 14], [31, 8, 3], [40, 41, 42], [60, 7, 7]])


@pytest.fixture(scope="module", params=PRESETS)
def model(request):
    """One whose choice depends on the question, with weights that are not zero."""
    model = tiny_model(request.param)
    if request.param == "default":
        make_question_aware(model)
    return model


def in_chunks(model, frames):
    """The same model, whose question encoder takes so many frames at a time."""
    other = copy.deepcopy(model)
    other.model.question_encoder.frames_per_chunk = frames
    return other


def random_state(config, num_frames, *, seed=0, dtype=torch.float32):
    """A state as of one video of `num_frames` frames, of the right shapes."""
    generator = torch.Generator().manual_seed(seed)
    width, tokens = config.vision_config.hidden_size, sum(config.spatial_clusters)
    parents = torch.cat([torch.arange(6), torch.arange(16) % 6]).sort().values.to(torch.uint8)
    with_patches = config.question_context == "patches"

    def random(number):
        return torch.randn(1, num_frames, number, width, generator=generator).to(dtype)

    return VideoState(
        frame_features=random(config.pooling_grid**2),
        grouped_tokens=random(tokens),
        parent_of_token=parents.expand(1, num_frames, -1),
        frame_mask=torch.ones(1, num_frames, dtype=torch.bool),
        patches=random(config.vision_config.num_patches) if with_patches else None,
    )


def ask(model, state, plans, questions=QUESTIONS):
    with torch.no_grad():
        return model.get_video_features(
            video_state=state,
            video_token_plan=torch.tensor(plans),
            question_input_ids=questions[: len(plans)],
        )


def assert_same(found, expected, rows=None):
    for name in LISTS:
        ours, theirs = getattr(found, name), getattr(expected, name)
        for first, second in zip(ours, theirs if rows is None else [theirs[row] for row in rows], strict=True):
            torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


# ---- chunks ----

PLANS = [[[4, 2, 9], [3, 1, 5], [1, 1, 1]], [[4, 2, 4], [3, 3, 2], [1, 1, 1]], [[9, 4, 9], [5, 5, 5], [1, 1, 1]]]


@pytest.mark.parametrize("plans", PLANS, ids=["own rods", "shared rods", "all frames are events"])
@pytest.mark.parametrize("frames", [1, 2, 4, 14])
def test_chunks_of_frames_are_the_whole(model, plans, frames):
    """With gradients all frames are taken at once."""
    inputs = tiny_inputs(model.config, [9, 5, 1], plans=plans)
    whole = model.get_video_features(**of_videos(inputs))
    assert whole.pooler_output[0].requires_grad
    with torch.no_grad():
        chunked = in_chunks(model, frames).get_video_features(**of_videos(inputs))
    assert_same(chunked, whole)


def test_frames_are_encoded_once_each(model, monkeypatch):
    """Frames that stand for events are asked for twice, and the others once."""
    small, state = in_chunks(model, 4), random_state(model.config, 30)
    seen = []
    encoder = small.model.question_encoder
    encode = encoder._encode
    monkeypatch.setattr(
        encoder, "_encode", lambda ids, mask, tokens: seen.append(len(tokens)) or encode(ids, mask, tokens)
    )
    ask(small, state, [[7, 3, 30]])
    assert sum(seen) == 30 and max(seen) <= 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_state_of_another_precision(model, dtype):
    state = random_state(model.config, 20, dtype=dtype)
    found = ask(in_chunks(model, 4), state, [[5, 2, 20]])
    assert found.pooler_output[0].dtype == torch.float32
    assert_same(found, ask(model, state.to(dtype=torch.float32), [[5, 2, 20]]))


def test_half_precision_stays_half(model):
    half = in_chunks(model, 4).to(torch.bfloat16)
    found = ask(half, random_state(model.config, 20), [[5, 2, 7]])
    assert found.pooler_output[0].dtype == torch.bfloat16 and found.pooler_output[0].isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ask(in_chunks(model, 4), random_state(model.config, 20), [[5, 2, 7]])
    assert found.pooler_output[0].isfinite().all()


def test_long_videos_in_the_whole_model(model, monkeypatch):
    """A batch with a video above the bound of exact clustering gives what its videos give alone."""
    monkeypatch.setattr(events_module, "EXACT_TOKENS", 12)
    small, plans = in_chunks(model, 8), [[5, 2, 30], [4, 3, 6]]
    states = [random_state(model.config, frames, seed=frames) for frames in (30, 10)]
    together = ask(small, VideoState.stack(states), plans)
    for row, (state, plan) in enumerate(zip(states, plans, strict=True)):
        assert_same(ask(small, state, [plan], QUESTIONS[row : row + 1]), together, [row])


# ---- many questions on one state ----


def test_a_shared_state_gives_what_separate_states_give(model):
    state = random_state(model.config, 30)
    plans = [[5, 2, 30], [5, 3, 30], [7, 2, 10], [5, 2, 30]]
    for asked in (model, in_chunks(model, 8)):
        together = ask(asked, state.expand(4), plans)
        for row, plan in enumerate(plans):
            assert_same(ask(asked, random_state(model.config, 30), [plan], QUESTIONS[row : row + 1]), together, [row])


def test_events_of_a_state_are_found_once(model, monkeypatch):
    found = []
    estimator = type(model.model.event_prototypes)
    find = estimator.find_events
    monkeypatch.setattr(
        estimator, "find_events", lambda *args, **kwargs: found.append(kwargs) or find(*args, **kwargs)
    )
    state = random_state(model.config, 30)
    for asked in (model, in_chunks(model, 8)):
        ask(asked, state, [[5, 2, 30]])
        ask(asked, state.expand(3), [[5, 2, 30], [5, 1, 30], [5, 2, 9]])
        ask(asked, state.expand(2), [[5, 2, 30]] * 2)
    assert len(found) == 1
    ask(model, state, [[6, 2, 30]])
    assert len(found) == 2, "another number of events"
    other = copy.deepcopy(model)
    other.model.event_prototypes.num_neighbors = 3
    ask(other, state, [[5, 2, 30]])
    assert len(found) == 3, "another clustering"


def test_with_gradients_nothing_is_kept(model):
    state = random_state(model.config, 5)
    model.get_video_features(
        video_state=state, video_token_plan=torch.tensor([[3, 1, 5]]), question_input_ids=QUESTIONS[:1]
    )
    assert not state.event_cache


# ---- memory ----


class LiveBytes(TorchDispatchMode):
    """The most bytes of tensors alive at a time, of those that are made while it is on."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._alive = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        for leaf in tree_leaves(out):
            if torch.is_tensor(leaf):
                storage = leaf.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in given and key not in self._alive:
                    self._alive.add(key)
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._forget, key, size)
        return out

    def _forget(self, key, size):
        self._alive.discard(key)
        self.now -= size


def peak(model, state, plans, monkeypatch):
    # Slices of a few megabytes are allowed at any size; tiny inputs show the rule without them.
    monkeypatch.setattr("dynfocus.selecting.distances.SMALLEST_SLICE", 2**15)
    monkeypatch.setattr("dynfocus.selecting.distances._BLOCK_ELEMENTS", 2**15)
    monkeypatch.setattr("dynfocus.selecting.clustering._CHUNK_ELEMENTS", 2**16)
    with LiveBytes() as live:
        ask(model, state, plans)
    return live.peak


def num_bytes(state):
    return sum(tensor.numel() * tensor.element_size() for tensor in (state.frame_features, state.grouped_tokens))


@pytest.mark.parametrize("num_groups", [400, 60])
def test_memory_above_the_state_is_less_than_the_state(model, num_groups, monkeypatch):
    state = random_state(model.config, 400)
    assert 0 < peak(in_chunks(model, 10), state, [[20, 9, num_groups]], monkeypatch) <= 1.5 * num_bytes(state)


def test_more_questions_on_a_state_make_no_copies_of_it(monkeypatch):
    model = tiny_model()
    make_question_aware(model)
    small, state = in_chunks(model, 16), random_state(model.config, 200)
    plans = [[10, 4, 50]] * 4
    ask(small, state, plans[:1])
    one = peak(small, state, plans[:1], monkeypatch)
    assert peak(small, state.expand(4), plans, monkeypatch) - one <= 0.5 * num_bytes(state)


# ---- every length ----


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 200_000),
    st.integers(40, 20_000),
    st.integers(1, 200),
    st.sampled_from([0.1, 0.45, 0.8, 1.0]),
    st.booleans(),
)
def test_the_budget_holds_for_every_length(frames, limit, prototypes, ratio, rods_on_key_frames):
    settings = {"num_prototypes": prototypes, "key_ratio": ratio, "rods_on_key_frames": rods_on_key_frames}
    plan = TokenBudget(max_visual_tokens=limit, **settings).plan(frames)
    assert plan.num_visual_tokens <= limit
    assert 1 <= plan.num_key_frames <= plan.num_prototypes <= frames
    assert 1 <= plan.num_rod_groups <= frames
    if plan.num_rod_groups < frames:
        assert plan.num_key_frames == 1, "frames share rods only where fewer key frames do not help"
        assert plan.num_visual_tokens + 2 > limit, "as many rods as fit"


def test_visual_tokens_of_days_of_video(model):
    frames, groups = 200_000, 900
    key_frames = [0, 17, 100_000, 199_999]
    rods_on_key_frames = model.model.cooperative_encoder.rods_on_key_frames
    (tokens,) = token_order([(frames, key_frames, groups)], rods_on_key_frames)
    assert len(tokens) == 2 * groups + 3 * len(key_frames)
    assert [token - 10_000 for token in tokens if token >= 10_000] == [f for f in key_frames for _ in range(3)]


@pytest.mark.parametrize("num_groups", [1, 7, 150])
def test_shared_rods_keep_to_the_plan(model, num_groups):
    state = random_state(model.config, 150)
    (tokens,) = ask(in_chunks(model, 16), state, [[10, 1, num_groups]]).pooler_output
    rods = num_groups - (num_groups == 150 and not model.config.rods_on_key_frames)
    assert len(tokens) == 38 + 2 * rods and tokens.isfinite().all()
