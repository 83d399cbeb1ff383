"""How many visual tokens a video costs, decided before anything is encoded: pure arithmetic on T and the budget."""

import math
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class TokenPlan:
    """
    What is spent on one video.

    Args:
        num_frames (`int`): T, the frames that were sampled.
        num_prototypes (`int`): L, the events into which the frames are grouped, `1 <= L <= T`.
        num_key_frames (`int`): K, the key frames, which get cones, `1 <= K <= L`.
        num_rod_groups (`int`): R, the groups of neighbouring frames that share rods, `1 <= R <= T`;
            frame t belongs to group `floor(t * R / T)`.
        num_visual_tokens (`int`): placeholder tokens of the video in the prompt.
    """

    num_frames: int
    num_prototypes: int
    num_key_frames: int
    num_rod_groups: int
    num_visual_tokens: int

    def as_row(self) -> tuple[int, int, int]:
        """`(L, K, R)`, one row of the model's `video_token_plan`."""
        return self.num_prototypes, self.num_key_frames, self.num_rod_groups


@dataclass(frozen=True)
class TokenBudget:
    """
    The rule by which videos get their token plans.

    A video of T frames is grouped into `L = min(T, num_prototypes)` events, of which `K = ceil(key_ratio * L)` become
    key frames; every frame gets its own rods (`R = T`). With `max_visual_tokens` a plan never costs more: K shrinks
    first, to 1; then neighbouring frames share rods (`R < T`, as large as fits).

    Args:
        num_prototypes (`int`, defaults to 25): events of a video at most.
        key_ratio (`float`, defaults to 0.8): key frames as a part of the events, above 0 and at most 1.
        cone_tokens (`int`, defaults to 38): fine tokens of a key frame (g² + 16 + 6 with the pooling grid g = 4).
        rod_tokens (`int`, defaults to 2): coarse tokens of a rod group.
        rods_on_key_frames (`bool`, defaults to `True`):
            whether key frames keep their rods besides their cones. Where not, and every frame has its own rods, key
            frames cost their cones alone, unless all frames are key frames.
        max_visual_tokens (`int`, *optional*): tokens of one video at most.

    Raises:
        `ValueError`: where a setting is out of its range.
    """

    num_prototypes: int = 25
    key_ratio: float = 0.8
    cone_tokens: int = 38
    rod_tokens: int = 2
    rods_on_key_frames: bool = True
    max_visual_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_prototypes", "cone_tokens", "rod_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.key_ratio <= 1:
            raise ValueError(f"`key_ratio` must be above 0 and at most 1, got {self.key_ratio}.")
        if not self.rods_on_key_frames and self.cone_tokens <= self.rod_tokens:
            raise ValueError(
                f"Without rods on key frames a key frame must cost more than another frame, but `cone_tokens` is "
                f"{self.cone_tokens} and `rod_tokens` is {self.rod_tokens}."
            )
        least = self.cone_tokens + self.rod_tokens
        if self.max_visual_tokens is not None and self.max_visual_tokens < least:
            raise ValueError(
                f"`max_visual_tokens={self.max_visual_tokens}` is too small: one key frame and one rod group cost "
                f"{self.cone_tokens} + {self.rod_tokens} = {least} tokens, the least possible number."
            )

    def cost(self, num_frames: int, num_key_frames: int, num_rod_groups: int) -> int:
        """Visual tokens of a video with T frames, K key frames and R rod groups."""
        num_rods = num_rod_groups
        if not self.rods_on_key_frames and num_key_frames < num_frames == num_rod_groups:
            num_rods = num_frames - num_key_frames
        return self.rod_tokens * num_rods + self.cone_tokens * num_key_frames

    def plan(self, num_frames: int) -> TokenPlan:
        """The plan of a video of `num_frames` frames. Raises `ValueError` for a video without frames."""
        if num_frames < 1:
            raise ValueError(f"A video needs at least one frame, got {num_frames}.")
        num_prototypes = min(num_frames, self.num_prototypes)
        # Rounded first: 0.28 * 25 is 7.000000000000001 in floating point, and means 7.
        num_key_frames = max(1, math.ceil(round(self.key_ratio * num_prototypes, 9)))
        num_rod_groups = num_frames

        limit = self.max_visual_tokens
        if limit is not None and self.cost(num_frames, num_key_frames, num_rod_groups) > limit:
            num_key_frames = self._affordable_key_frames(num_frames, num_key_frames, limit)
            if self.cost(num_frames, num_key_frames, num_rod_groups) > limit:
                num_rod_groups = min(num_frames, (limit - self.cone_tokens) // self.rod_tokens)
        return TokenPlan(
            num_frames=num_frames,
            num_prototypes=num_prototypes,
            num_key_frames=num_key_frames,
            num_rod_groups=num_rod_groups,
            num_visual_tokens=self.cost(num_frames, num_key_frames, num_rod_groups),
        )

    def _affordable_key_frames(self, num_frames: int, wanted: int, limit: int) -> int:
        """The most key frames, up to `wanted`, within `limit` where every frame keeps its rods; 1 if none are."""
        if self.rods_on_key_frames:
            price = self.cone_tokens
        else:
            price = self.cone_tokens - self.rod_tokens
            # With all frames key the rods come on top: that is dearer than the line that `price` stands for.
            wanted = min(wanted, max(1, num_frames - 1))
        return max(1, min(wanted, (limit - self.rod_tokens * num_frames) // price))

    def override(self, **settings: Any) -> "TokenBudget":
        """The same rule with other settings; `None` leaves a setting as it is."""
        return replace(self, **{name: value for name, value in settings.items() if value is not None})


def plan_tokens(num_frames: int, **settings: Any) -> TokenPlan:
    """The plan of one video; `settings` are those of [`TokenBudget`]."""
    return TokenBudget(**settings).plan(num_frames)


__all__ = ["TokenBudget", "TokenPlan", "plan_tokens"]
