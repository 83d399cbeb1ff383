"""CCE: how many tokens a video gets, in which order, and what they are made of."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_focus import CONE, token_order
from tiny_models import num_visual_tokens, of_videos, tiny_config, tiny_inputs, tiny_model

from dynfocus.configuration_dynfocus import PRESETS
from dynfocus.encoding.cooperative_encoding import ClusterGate, CooperativeEncoder
from dynfocus.encoding.released_code import ReleasedEncoder, SoftmaxGate
from dynfocus.processing.token_plan import TokenBudget
from dynfocus.selecting.events import Events
from dynfocus.selecting.focus import Focus, group_of_frame
from dynfocus.states.video_state import VideoState

ENCODERS = {"default": CooperativeEncoder, "released_code": ReleasedEncoder}


@pytest.fixture(scope="module", params=PRESETS)
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request):
    torch.manual_seed(0)
    return ENCODERS[request.param](tiny_config(request.param)).eval()


# ---- the order in time ----


def test_a_key_frames_cones_come_before_its_rods():
    assert token_order([(4, [1, 3], 4)], True) == [[0, 0, *[CONE + 1] * 3, 1, 1, 2, 2, *[CONE + 3] * 3, 3, 3]]


def test_released_cones_take_the_place_of_rods():
    assert token_order([(4, [1, 3], 4)], False) == [[0, 0, *[CONE + 1] * 3, 2, 2, *[CONE + 3] * 3]]


@pytest.mark.parametrize("preset", PRESETS)
def test_where_all_frames_are_key_frames_all_keep_their_rods(preset):
    expected = [*[CONE] * 3, 0, 0, *[CONE + 1] * 3, 1, 1]
    assert token_order([(2, [0, 1], 2)], ENCODERS[preset].rods_on_key_frames) == [expected]


@pytest.mark.parametrize("preset", PRESETS)
def test_shared_rods_follow_the_cones_of_all_their_frames(preset):
    """Six frames in three groups: frames 2 and 3 share group 1, their cones come in time order before its rods."""
    expected = [0, 0, *[CONE + 2] * 3, *[CONE + 3] * 3, 1, 1, *[CONE + 4] * 3, 2, 2]
    assert token_order([(6, [2, 3, 4], 3)], ENCODERS[preset].rods_on_key_frames) == [expected]


@pytest.mark.parametrize("preset", PRESETS)
def test_assembly_of_a_batch_is_that_of_its_videos(preset):
    videos = [(6, [2, 3, 4], 3), (1, [0], 1), (4, [1, 3], 4), (2, [0, 1], 2)]
    alone = [token_order([video], ENCODERS[preset].rods_on_key_frames)[0] for video in videos]
    assert token_order(videos, ENCODERS[preset].rods_on_key_frames) == alone


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=60, deadline=None)
@given(frames=st.integers(1, 4000), data=st.data())
def test_tokens_are_as_many_as_planned_and_in_time_order(preset, frames, data):
    budget = TokenBudget(
        num_prototypes=data.draw(st.integers(1, 40)),
        key_ratio=data.draw(st.sampled_from([0.1, 0.45, 0.8, 1.0])),
        cone_tokens=3,
        rods_on_key_frames=ENCODERS[preset].rods_on_key_frames,
        max_visual_tokens=data.draw(st.none() | st.integers(5, 3 * frames + 5)),
    )
    plan = budget.plan(frames)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    key_frames = torch.randperm(frames, generator=generator)[: plan.num_key_frames].sort().values.tolist()
    (tokens,) = token_order([(frames, key_frames, plan.num_rod_groups)], ENCODERS[preset].rods_on_key_frames)
    assert len(tokens) == plan.num_visual_tokens
    cones = [token - CONE for token in tokens if token >= CONE]
    assert cones == [frame for frame in key_frames for _ in range(3)]
    place = [
        ((token - CONE) * plan.num_rod_groups // frames, 0, token) if token >= CONE else (token, 1, 0)
        for token in tokens
    ]
    assert place == sorted(place), "in time order, cones before the rods of their frame"


def test_groups_of_frames():
    mask = torch.arange(7) < torch.tensor([7, 4])[:, None]
    groups = group_of_frame(mask, torch.tensor([3, 4]))
    assert groups[0].tolist() == [t * 3 // 7 for t in range(7)]
    assert groups[1, :4].tolist() == [0, 1, 2, 3]


# ---- what tokens are made of ----


def random_tokens(*shape, seed=0):
    return torch.randn(*shape, 24, generator=torch.Generator().manual_seed(seed))


def test_rods_are_the_frames_mean_and_what_the_question_attends_to(encoder):
    gated, queries = random_tokens(1, 6, 22), random_tokens(1, 6, 4, seed=1)
    rods = encoder.rods(gated, queries)
    assert rods.shape == (1, 6, 2, 32)
    torch.testing.assert_close(rods[:, :, 0], encoder.projector(gated.mean(2)))
    # As scaled dot-product attention of the queries over the tokens, averaged over the queries.
    attended = torch.nn.functional.scaled_dot_product_attention(queries, encoder.key_projector(gated), gated).mean(2)
    torch.testing.assert_close(rods[:, :, 1], encoder.value_projector(attended), atol=1e-5, rtol=1e-5)


def test_more_rods_split_the_queries():
    torch.manual_seed(0)
    encoder = CooperativeEncoder(tiny_config(rod_tokens=3))
    gated, queries = random_tokens(1, 6, 22), random_tokens(1, 6, 4, seed=1)
    rods = encoder.rods(gated, queries)
    assert rods.shape == (1, 6, 3, 32)
    other = queries.clone()
    other[:, :, 2:] += 1
    moved = (encoder.rods(gated, other) - rods).abs().amax((0, 1, 3)) > 1e-6
    assert moved.tolist() == [False, False, True]


class Queries:
    """Stands for `FrameQueries`, with random queries."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, num_frames, frames_per_chunk=1000):
        self.frames_per_chunk = frames_per_chunk
        self.queries = random_tokens(1, num_frames, 4, seed=2)

    def at(self, videos, frames):
        return self.queries[videos, frames]


def pieces(num_groups=6):
    """A state of six frames, and its four events, of which frames 0, 1, 2 and 3 are the medoids."""
    parents = torch.cat([torch.arange(6), torch.arange(16) % 6]).sort().values
    state = VideoState(
        frame_features=random_tokens(1, 6, 16, seed=3),
        grouped_tokens=random_tokens(1, 6, 22, seed=4),
        parent_of_token=parents.expand(1, 6, -1),
        frame_mask=torch.ones(1, 6, dtype=torch.bool),
    )
    events = Events(
        torch.tensor([[0, 1, 2, 3, 3, 3]]),
        torch.arange(4)[None],
        torch.ones(1, 4, dtype=torch.bool),
        random_tokens(1, 4, 16, seed=5),
    )
    return state, events, torch.tensor([num_groups])


def focused(events, groups, key_events, scores=None, indicators=None):
    mask = torch.ones(1, len(key_events), dtype=torch.bool)
    return Focus(events, scores, torch.tensor([key_events]), mask, groups, indicators)


def cones_of(encoder, tokens, key_frames):
    """Cones out of the visual tokens of six frames, `(K, 38, H)`."""
    (order,) = token_order([(6, key_frames, 6)], encoder.rods_on_key_frames, cone_tokens=38)
    return torch.stack([tokens[torch.tensor(order) == CONE + frame] for frame in key_frames])


def test_shared_rods_are_means_over_their_frames(encoder):
    state, events, groups = pieces(num_groups=2)
    queries = Queries(6)
    (tokens,) = encoder(state, queries, focused(events, groups, [0]))
    gated = encoder.cluster_gate(state.grouped_tokens, state.parent_of_token)[0]
    own = encoder.rods(gated, queries.queries[0])
    torch.testing.assert_close(tokens[38], encoder.projector(gated[:3].mean((0, 1))), atol=1e-5, rtol=1e-5)
    # The second rod's map is linear: the mean may be taken before or after it.
    torch.testing.assert_close(tokens[-1], own[3:, 1].mean(0), atol=1e-5, rtol=1e-5)


def test_cones_are_the_prototype_and_the_groups_of_its_frame(encoder):
    state, events, groups = pieces()
    (tokens,) = encoder(state, Queries(6), focused(events, groups, [1, 3]))
    is_medoid = isinstance(encoder, CooperativeEncoder) and not isinstance(encoder, ReleasedEncoder)
    pooled = (state.frame_features if is_medoid else events.prototypes)[0, [1, 3]]
    gated = encoder.cluster_gate(state.grouped_tokens, state.parent_of_token)[0, [1, 3]]
    torch.testing.assert_close(cones_of(encoder, tokens, [1, 3]), encoder.cones(pooled, gated))


def test_a_soft_choice_that_is_one_event_is_the_hard_choice(encoder):
    state, events, groups = pieces()
    indicators = torch.nn.functional.one_hot(torch.tensor([[0, 2]]), 4).float()
    for scores in (None, random_tokens(1)[:, :4]):
        hard = encoder(state, Queries(6), focused(events, groups, [0, 2], scores))
        soft = encoder(state, Queries(6), focused(events, groups, [0, 2], scores, indicators))
        torch.testing.assert_close(soft, hard)


def test_a_soft_choice_blends_events_and_carries_a_gradient(encoder):
    state, events, groups = pieces()
    weights = torch.tensor([[[0.5, 0.5, 0.0, 0.0]]], requires_grad=True)
    (tokens,) = encoder(state, Queries(6), focused(events, groups, [0], indicators=weights))
    cones_of(encoder, tokens, [0]).square().sum().backward()
    assert weights.grad.abs().min() > 0


def test_scores_are_embedded_where_there_are_some():
    """How well a frame's event fits is added to its rods, and to the cones of key frames; more for a better fit."""
    torch.manual_seed(0)
    encoder = CooperativeEncoder(tiny_config()).eval()
    torch.nn.init.normal_(encoder.score_embedding.rods.weight)
    torch.nn.init.normal_(encoder.score_embedding.cones.weight)
    state, events, groups = pieces()
    scores = torch.tensor([[-1.0, 0.0, 1.0, 2.0]])
    with torch.no_grad():
        (plain,) = encoder(state, Queries(6), focused(events, groups, [1]))
        (embedded,) = encoder(state, Queries(6), focused(events, groups, [1], scores))
    (order,) = token_order([(6, [1], 6)], True, cone_tokens=38)
    fit = scores.sigmoid()[0, [0, 1, 2, 3, 3, 3]]
    for place, token in enumerate(order):
        layer = encoder.score_embedding.cones if token >= CONE else encoder.score_embedding.rods
        added = layer(fit[token % CONE, None])
        torch.testing.assert_close(embedded[place] - plain[place], added, atol=1e-5, rtol=1e-4)


def test_the_bounded_gate_weighs_groups_between_a_half_and_one_and_a_half():
    torch.manual_seed(0)
    gate = ClusterGate(6)
    torch.nn.init.normal_(gate.score.weight, std=10)
    tokens = torch.randn(2, 22, 5)
    parents = torch.arange(22).remainder(6).sort().values.expand(2, -1)
    weights = (gate(tokens, parents) / tokens).detach()
    assert 0.499 < weights.min() < 0.6 and 1.4 < weights.max() < 1.501
    for group in range(6):
        members = weights[0, parents[0] == group]
        torch.testing.assert_close(members, members[:1, :1].expand_as(members), atol=1e-4, rtol=0)


def test_the_softmax_gate_shares_one_among_the_groups():
    gate = SoftmaxGate(6)
    tokens = torch.randn(2, 22, 5)
    parents = torch.arange(22).remainder(6).sort().values.expand(2, -1)
    weights = (gate(tokens, parents) / tokens)[:, :, 0]
    first = torch.tensor([int((parents[0] == group).nonzero()[0]) for group in range(6)])
    torch.testing.assert_close(weights[:, first].sum(1), torch.ones(2), atol=1e-4, rtol=0)


# ---- in the whole model ----


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(1, 20), data=st.data())
def test_the_model_gives_the_planned_number_of_tokens(model, frames, data):
    budget = TokenBudget(
        num_prototypes=data.draw(st.integers(1, 12)),
        key_ratio=data.draw(st.sampled_from([0.1, 0.45, 0.8, 1.0])),
        rods_on_key_frames=model.config.rods_on_key_frames,
        max_visual_tokens=data.draw(st.none() | st.integers(40, 600)),
    )
    plan = budget.plan(frames)
    inputs = tiny_inputs(model.config, [frames], plans=[list(plan.as_row())])
    with torch.no_grad():
        (tokens,) = model.get_video_features(**of_videos(inputs)).pooler_output
    assert tokens.shape == (plan.num_visual_tokens, 32)
    assert plan.num_visual_tokens == num_visual_tokens(model.config, frames, list(plan.as_row()))
    assert tokens.isfinite().all()


@pytest.mark.parametrize(
    "fields", [{"pooling_grid": 3}, {"pooling_grid": 1}, {"spatial_clusters": (5, 2)}, {"rod_tokens": 3}]
)
def test_other_sizes_change_the_tokens_accordingly(fields):
    model = tiny_model(**fields)
    inputs = tiny_inputs(model.config, [7, 3])
    with torch.no_grad():
        outputs = model(**inputs).video_outputs.pooler_output
    config = model.config
    assert [len(tokens) for tokens in outputs] == [
        config.rod_tokens * 7 + config.cone_tokens * 2,
        config.rod_tokens * 3 + config.cone_tokens * 2,
    ]


def test_rods_do_not_depend_on_the_selection():
    model = tiny_model()
    rods = []
    for num_key in (1, 3):
        inputs = tiny_inputs(model.config, [6], plans=[[4, num_key, 6]])
        with torch.no_grad():
            found = model.get_video_features(**of_videos(inputs))
        tokens, kept, start = found.pooler_output[0], [], 0
        for frame in range(6):
            start += 38 if frame in found.key_frames[0] else 0
            kept.append(tokens[start : start + 2])
            start += 2
        rods.append(torch.cat(kept))
    torch.testing.assert_close(*rods)
