"""Smaller token plans for rows that are too long, without encoding anything again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ..token_plan import TokenBudget, TokenPlan


def fitting_plans(num_frames: Sequence[int], budget: TokenBudget, max_tokens: int) -> list[TokenPlan]:
    """
    The largest plans of a row's videos that together cost at most `max_tokens`.

    All videos get the same limit, the largest possible, so that tokens which a short video does not need are used by
    longer ones.

    Args:
        num_frames: T of each video.
        budget: the rule, with its own limit for each video.

    Raises:
        `ValueError`: if the smallest plans cost more.
    """

    def plans_within(limit: int) -> list[TokenPlan]:
        return [replace(budget, max_visual_tokens=limit).plan(count) for count in num_frames]

    def cost(plans: list[TokenPlan]) -> int:
        return sum(plan.num_visual_tokens for plan in plans)

    largest = [budget.plan(count) for count in num_frames]
    if cost(largest) <= max_tokens:
        return largest
    least = budget.cone_tokens + budget.rod_tokens
    if (least_cost := cost(plans_within(least))) > max_tokens:
        raise ValueError(
            f"even the least token plans of its {len(num_frames)} videos cost {least_cost} visual tokens, where "
            f"{max(0, max_tokens)} are left"
        )
    # Costs grow with the limit, so the largest limit that fits is found by bisection.
    low, high = least, max(plan.num_visual_tokens for plan in largest)
    while high - low > 1:
        middle = (low + high) // 2
        if cost(plans_within(middle)) <= max_tokens:
            low = middle
        else:
            high = middle
    return plans_within(low)


def with_plans(
    row: Mapping[str, torch.Tensor], plans: Sequence[TokenPlan], old_costs: Sequence[int], video_token_id: int
) -> dict[str, torch.Tensor]:
    """
    An encoded row with smaller token plans: each video keeps as many placeholders as its new plan costs.

    Args:
        row: with `input_ids` and other tensors `(tokens,)`, and the inputs of its videos.
        plans: one for each video, in order.
        old_costs: placeholders of each video in `row`.
    """
    places = (row["input_ids"] == video_token_id).nonzero()[:, 0]
    if len(places) != sum(old_costs):
        raise ValueError(f"The row has {len(places)} placeholders for videos that cost {sum(old_costs)} tokens.")
    keep = torch.ones(len(row["input_ids"]), dtype=torch.bool)
    for plan, of_video in zip(plans, places.split(list(old_costs)), strict=True):
        keep[of_video[plan.num_visual_tokens :]] = False
    per_token = {name: row[name][keep] for name in ("input_ids", "attention_mask", "labels") if name in row}
    plan_rows = torch.tensor([plan.as_row() for plan in plans], dtype=torch.int64)
    return {**row, **per_token, "video_token_plan": plan_rows}


__all__ = ["fitting_plans", "with_plans"]
