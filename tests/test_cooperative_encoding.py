"""CCE: how many tokens a video gets, in which order, and what they are made of."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import num_visual_tokens, of_videos, tiny_config, tiny_inputs, tiny_model

from dynfocus.configuration_dynfocus import PRESETS
from dynfocus.encoding.cooperative_encoding import ClusterGate, CooperativeEncoder, group_of_frame
from dynfocus.encoding.event_prototypes import Events, Selection
from dynfocus.processing.token_plan import TokenBudget, plan_tokens

#: Added to the frame of a cone, to tell it from a rod.
CONE = 10_000


@pytest.fixture(scope="module", params=PRESETS)
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="module", params=PRESETS)
def encoder(request):
    torch.manual_seed(0)
    return CooperativeEncoder(tiny_config(request.param)).eval()


@pytest.fixture(scope="module")
def encoders():
    return {preset: CooperativeEncoder(tiny_config(preset)) for preset in PRESETS}


def assemble(encoder, videos, *, cone_tokens=3):
    """
    Put together rods and cones that tell what they are, for videos given as (frames, key frames, rod groups).

    Of each video, for each token: the group of its rod, or 10,000 plus the key frame of its cone.
    """
    num_frames, keys, groups = zip(*videos, strict=True)
    slots, frames, limit = max(map(len, keys)), max(num_frames), max(groups)
    key_frames = torch.zeros(len(videos), slots, dtype=torch.long)
    slot_mask = torch.zeros(len(videos), slots, dtype=torch.bool)
    for video, key in enumerate(keys):
        key_frames[video, : len(key)] = torch.tensor(key)
        slot_mask[video, : len(key)] = True
    rods = torch.arange(limit).float()[None, :, None, None].expand(len(videos), -1, 2, 1)
    cones = (CONE + key_frames).float()[..., None, None].expand(-1, -1, cone_tokens, 1)
    frame_mask = torch.arange(frames) < torch.tensor(num_frames)[:, None]
    tokens = encoder.assemble(rods, cones, key_frames, slot_mask, frame_mask, torch.tensor(groups))
    return [video[:, 0].int().tolist() for video in tokens]


# ---- the order in time ----


def test_a_key_frames_cones_come_before_its_rods(encoders):
    assert assemble(encoders["default"], [(4, [1, 3], 4)]) == [
        [0, 0, *[CONE + 1] * 3, 1, 1, 2, 2, *[CONE + 3] * 3, 3, 3]
    ]


def test_released_cones_take_the_place_of_rods(encoders):
    assert assemble(encoders["released_code"], [(4, [1, 3], 4)]) == [[0, 0, *[CONE + 1] * 3, 2, 2, *[CONE + 3] * 3]]


@pytest.mark.parametrize("preset", PRESETS)
def test_where_all_frames_are_key_frames_all_keep_their_rods(encoders, preset):
    expected = [*[CONE] * 3, 0, 0, *[CONE + 1] * 3, 1, 1]
    assert assemble(encoders[preset], [(2, [0, 1], 2)]) == [expected]


@pytest.mark.parametrize("preset", PRESETS)
def test_shared_rods_follow_the_cones_of_all_their_frames(encoders, preset):
    """Six frames in three groups: frames 2 and 3 share group 1, their cones come in time order before its rods."""
    expected = [0, 0, *[CONE + 2] * 3, *[CONE + 3] * 3, 1, 1, *[CONE + 4] * 3, 2, 2]
    assert assemble(encoders[preset], [(6, [2, 3, 4], 3)]) == [expected]


@pytest.mark.parametrize("preset", PRESETS)
def test_assembly_of_a_batch_is_that_of_its_videos(encoders, preset):
    videos = [(6, [2, 3, 4], 3), (1, [0], 1), (4, [1, 3], 4), (2, [0, 1], 2)]
    alone = [assemble(encoders[preset], [video])[0] for video in videos]
    assert assemble(encoders[preset], videos) == alone


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=60, deadline=None)
@given(frames=st.integers(1, 4000), data=st.data())
def test_tokens_are_as_many_as_planned_and_in_time_order(encoders, preset, frames, data):
    budget = TokenBudget(
        num_prototypes=data.draw(st.integers(1, 40)),
        key_ratio=data.draw(st.sampled_from([0.1, 0.45, 0.8, 1.0])),
        cone_tokens=3,
        rods_on_key_frames=encoders[preset].rods_on_key_frames,
        max_visual_tokens=data.draw(st.none() | st.integers(5, 3 * frames + 5)),
    )
    plan = budget.plan(frames)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    key_frames = torch.randperm(frames, generator=generator)[: plan.num_key_frames].sort().values.tolist()
    (tokens,) = assemble(encoders[preset], [(frames, key_frames, plan.num_rod_groups)])
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


def pieces(encoder, frames=6, videos=1, events=4, seed=0):
    """Random inputs of CCE: frame features, gated tokens, queries, frame mask, events."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, 24, generator=generator)

    medoids = torch.arange(0, frames, max(1, frames // events))[:events].expand(videos, -1)
    found = Events(
        torch.zeros(videos, frames, dtype=torch.long),
        medoids,
        torch.ones_like(medoids, dtype=torch.bool),
        random(videos, medoids.shape[1], 16),
    )
    mask = torch.ones(videos, frames, dtype=torch.bool)
    return random(videos, frames, 16), random(videos, frames, 22), random(videos, frames, 4), mask, found


def chosen(*events):
    return Selection(torch.tensor([events]), torch.ones(1, len(events), dtype=torch.bool))


def test_rods_are_the_frames_mean_and_what_the_question_attends_to(encoder):
    _, gated, queries, mask, _ = pieces(encoder)
    rods = encoder.rods(gated, queries, mask, torch.tensor([6]))
    assert rods.shape == (1, 6, 2, 32)
    torch.testing.assert_close(rods[:, :, 0], encoder.projector(gated.mean(2)))
    # As scaled dot-product attention of the queries over the tokens, averaged over the queries.
    attended = torch.nn.functional.scaled_dot_product_attention(queries, encoder.key_projector(gated), gated).mean(2)
    torch.testing.assert_close(rods[:, :, 1], encoder.value_projector(attended), atol=1e-5, rtol=1e-5)


def test_shared_rods_are_means_over_their_frames(encoder):
    _, gated, queries, mask, _ = pieces(encoder)
    gated = gated.detach()
    shared = encoder.rods(gated, queries, mask, torch.tensor([2]))
    assert shared.shape[1] == 2
    torch.testing.assert_close(shared[0, 0, 0], encoder.projector(gated[0, :3].mean((0, 1))))
    own = encoder.rods(gated, queries, mask, torch.tensor([6]))
    # The second rod's map is linear: the mean may be taken before or after it.
    torch.testing.assert_close(shared[0, 1, 1], own[0, 3:, 1].mean(0), atol=1e-5, rtol=1e-5)


def test_more_rods_split_the_queries():
    torch.manual_seed(0)
    encoder = CooperativeEncoder(tiny_config(rod_tokens=3))
    _, gated, queries, mask, _ = pieces(encoder)
    rods = encoder.rods(gated, queries, mask, torch.tensor([6]))
    assert rods.shape == (1, 6, 3, 32)
    other = queries.clone()
    other[:, :, 2:] += 1
    moved = (encoder.rods(gated, other, mask, torch.tensor([6])) - rods).abs().amax((0, 1, 3)) > 1e-6
    assert moved.tolist() == [False, False, True]


def test_cones_are_the_prototype_and_the_groups_of_its_frame(encoder):
    frame_features, gated, _, _, events = pieces(encoder)
    cones = encoder.cones(frame_features, gated, events, chosen(1, 3))
    frames = events.medoids[0, [1, 3]]
    is_medoid = encoder.cone_source == "medoid"
    coarse = frame_features[0, frames] if is_medoid else events.prototypes[0, [1, 3]]
    expected = encoder.projector(torch.cat([coarse, gated[0, frames]], dim=1))
    torch.testing.assert_close(cones[0], expected)


def test_a_soft_choice_that_is_one_event_is_the_hard_choice(encoder):
    frame_features, gated, _, _, events = pieces(encoder)
    hard = chosen(0, 2)
    indicators = torch.nn.functional.one_hot(hard.key_events, events.medoids.shape[1]).float()
    soft = Selection(hard.key_events, hard.mask, indicators)
    torch.testing.assert_close(
        encoder.cones(frame_features, gated, events, soft), encoder.cones(frame_features, gated, events, hard)
    )


def test_a_soft_choice_blends_events_and_carries_a_gradient(encoder):
    frame_features, gated, _, _, events = pieces(encoder)
    weights = torch.tensor([[[0.5, 0.5, 0.0, 0.0]]], requires_grad=True)
    soft = Selection(torch.tensor([[0]]), torch.tensor([[True]]), weights)
    cones = encoder.cones(frame_features, gated, events, soft)
    cones.square().sum().backward()
    assert weights.grad.abs().min() > 0


def test_the_bounded_gate_weighs_groups_between_a_half_and_one_and_a_half():
    torch.manual_seed(0)
    gate = ClusterGate(6, "bounded")
    torch.nn.init.normal_(gate.score.weight, std=10)
    tokens = torch.randn(2, 22, 5)
    parents = torch.arange(22).remainder(6).sort().values.expand(2, -1)
    weights = (gate(tokens, parents) / tokens).detach()
    assert 0.499 < weights.min() < 0.6 and 1.4 < weights.max() < 1.501
    for group in range(6):
        members = weights[0, parents[0] == group]
        torch.testing.assert_close(members, members[:1, :1].expand_as(members), atol=1e-4, rtol=0)


def test_the_softmax_gate_shares_one_among_the_groups():
    gate = ClusterGate(6, "softmax")
    tokens = torch.randn(2, 22, 5)
    parents = torch.arange(22).remainder(6).sort().values.expand(2, -1)
    weights = (gate(tokens, parents) / tokens)[:, :, 0]
    first = torch.tensor([int((parents[0] == group).nonzero()[0]) for group in range(6)])
    torch.testing.assert_close(weights[:, first].sum(1), torch.ones(2), atol=1e-4, rtol=0)


# ---- in the whole model ----


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(1, 20), data=st.data())
def test_the_model_gives_the_planned_number_of_tokens(model, frames, data):
    plan = plan_tokens(
        frames,
        num_prototypes=data.draw(st.integers(1, 12)),
        key_ratio=data.draw(st.sampled_from([0.1, 0.45, 0.8, 1.0])),
        rods_on_key_frames=model.config.rods_on_key_frames,
        max_visual_tokens=data.draw(st.none() | st.integers(40, 600)),
    )
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
        outputs = model(**inputs).video_features.pooler_output
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
