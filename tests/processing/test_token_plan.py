"""The token plan: what it promises about the budget, for every length of video."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynfocus.processing.token_plan import TokenBudget

frames = st.integers(1, 4000)
rules = st.builds(
    TokenBudget,
    num_prototypes=st.integers(1, 120),
    key_ratio=st.floats(0.001, 1.0),
    cone_tokens=st.integers(9, 60),
    rod_tokens=st.integers(1, 8),
    rods_on_key_frames=st.booleans(),
)


def recount(rule, plan):
    """Tokens counted frame by frame, not by the formula."""
    tokens = plan.num_key_frames * rule.cone_tokens
    if plan.num_rod_groups < plan.num_frames:
        return tokens + plan.num_rod_groups * rule.rod_tokens
    spared = 0 if rule.rods_on_key_frames or plan.num_key_frames == plan.num_frames else plan.num_key_frames
    return tokens + sum(rule.rod_tokens for _ in range(plan.num_frames - spared))


@pytest.mark.parametrize("rods_on_key_frames", [True, False])
def test_every_length_has_the_planned_cost(rods_on_key_frames):
    rule = TokenBudget(rods_on_key_frames=rods_on_key_frames)
    for num_frames in range(1, 4001):
        plan = rule.plan(num_frames)
        assert plan.as_row() == (min(num_frames, 25), -(-4 * min(num_frames, 25) // 5), num_frames)
        assert plan.num_visual_tokens == recount(rule, plan)


@settings(max_examples=300, deadline=None)
@given(rules, frames, st.integers(0, 20_000))
def test_a_budget_is_never_exceeded(rule, num_frames, spare):
    budget = replace(rule, max_visual_tokens=rule.cone_tokens + rule.rod_tokens + spare)
    plan, free = budget.plan(num_frames), rule.plan(num_frames)
    assert plan.num_visual_tokens == recount(rule, plan) <= budget.max_visual_tokens
    assert 1 <= plan.num_key_frames <= plan.num_prototypes <= num_frames
    assert 1 <= plan.num_rod_groups <= num_frames
    assert plan.num_prototypes == free.num_prototypes
    # Key frames go first, and rods are shared only where a single key frame is left.
    assert plan.num_rod_groups == num_frames or plan.num_key_frames == 1
    if free.num_visual_tokens <= budget.max_visual_tokens:
        assert plan == free


@settings(max_examples=200, deadline=None)
@given(rules, frames, st.integers(0, 8000))
def test_nothing_that_fits_is_left_out(rule, num_frames, spare):
    limit = rule.cone_tokens + rule.rod_tokens + spare
    plan, free = replace(rule, max_visual_tokens=limit).plan(num_frames), rule.plan(num_frames)
    if plan.num_rod_groups < num_frames:
        assert rule.cost(num_frames, 1, plan.num_rod_groups + 1) > limit
    elif plan.num_key_frames < free.num_key_frames:
        assert rule.cost(num_frames, plan.num_key_frames + 1, num_frames) > limit


@settings(max_examples=200, deadline=None)
@given(rules, frames, st.integers(0, 4000), st.integers(0, 500))
def test_more_budget_never_buys_less(rule, num_frames, spare, more):
    least = rule.cone_tokens + rule.rod_tokens
    small = replace(rule, max_visual_tokens=least + spare).plan(num_frames)
    large = replace(rule, max_visual_tokens=least + spare + more).plan(num_frames)
    assert small.num_visual_tokens <= large.num_visual_tokens
    assert small.num_key_frames <= large.num_key_frames
    assert small.num_rod_groups <= large.num_rod_groups


@given(frames)
def test_the_smallest_budget_still_gives_a_plan(num_frames):
    assert TokenBudget(max_visual_tokens=40).plan(num_frames).num_visual_tokens == 40


def test_the_error_of_a_small_budget_names_the_least_number():
    with pytest.raises(ValueError, match="max_visual_tokens=39.* = 40 tokens"):
        TokenBudget(max_visual_tokens=39).plan(8)
    with pytest.raises(ValueError, match="at least one frame, got 0"):
        TokenBudget().plan(0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_prototypes", 0),
        ("key_ratio", 0.0),
        ("key_ratio", 1.1),
        ("cone_tokens", 0),
        ("rod_tokens", -1),
    ],
)
def test_settings_out_of_range_are_named(setting, value):
    with pytest.raises(ValueError, match=f"`{setting}` must be .*{value}"):
        TokenBudget(**{setting: value})


def test_rods_off_key_frames_need_dearer_cones():
    with pytest.raises(ValueError, match="`cone_tokens` is 2 and `rod_tokens` is 2"):
        TokenBudget(cone_tokens=2, rod_tokens=2, rods_on_key_frames=False)


def test_float_noise_does_not_add_a_key_frame():
    assert 0.28 * 25 > 7
    assert TokenBudget(key_ratio=0.28).plan(25).num_key_frames == 7
    assert TokenBudget(num_prototypes=80, key_ratio=0.45).plan(80).num_key_frames == 36
