"""Token plans: how many visual tokens a video costs, computed from T and the budget before anything is encoded."""

import math
from dataclasses import dataclass

# Tokens of the question and the chat template.
_POSITIONS_FOR_WORDS = 448


@dataclass(frozen=True)
class TokenPlan:
    """
    The visual tokens of one video.

    Args:
        num_frames (`int`): T, the sampled frames.
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
            whether key frames keep their rods besides their cones. If not, and every frame has its own rods, key
            frames cost only their cones, unless all frames are key frames.
        max_visual_tokens (`int`, *optional*): tokens of one video at most.

    Raises:
        `ValueError`: if a setting is out of its range.
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
            # If all frames are key frames, they keep their rods, which costs more than `price` assumes.
            wanted = min(wanted, max(1, num_frames - 1))
        return max(1, min(wanted, (limit - self.rod_tokens * num_frames) // price))


def room_for_videos(positions: int, new_tokens: int, num_videos: int, least: int) -> int | None:
    """
    Visual tokens of each video that fit into a language model's positions, besides words and the answer's tokens. If
    there are few positions, half of them at most are kept for words. `None` if not even `least` fit: the prompt's own
    error, which counts its words, is more precise then.
    """
    left = positions - new_tokens
    room = (left - min(_POSITIONS_FOR_WORDS, left // 2)) // num_videos
    return room if room >= least else None


@dataclass(frozen=True)
class FramePlan:
    """
    The tokens of one video that is shown to a stock model as frames.

    Args:
        num_frames (`int`): T, the frames to choose from.
        num_key_frames (`int`): K, the frames in fine detail, `1 <= K <= T`.
        num_coarse (`int`): R, the coarse pictures, each of one frame or of a panel of frames.
        num_visual_tokens (`int`): the largest number of tokens that this can cost, time words and marks included.
    """

    num_frames: int
    num_key_frames: int
    num_coarse: int
    num_visual_tokens: int


@dataclass(frozen=True)
class FrameBudget:
    """
    The rule by which a video is shown as key frames and coarse pictures within a token budget.

    As many frames become key frames as fit together with `coarse_per_key` coarse pictures each (or with all other
    frames, if these are fewer); at least one. The coarse pictures get the remaining tokens. Prices count everything in
    the prompt: placeholders, and the words and marks around them.

    Args:
        max_visual_tokens (`int`): tokens of the video at most.
        key_price (`int`): tokens of a key frame at most.
        coarse_price (`int`, *optional*): tokens of a coarse picture at most; `None` for key frames alone.
        fixed_price (`int`, defaults to 0): tokens that the video costs in any case.
        frames_per_coarse (`int`, defaults to 1): frames that one coarse picture shows.
        coarse_per_key (`int`, defaults to 8): coarse pictures for each key frame at most.
        num_key_frames (`int`, *optional*): key frames at most.

    Raises:
        `ValueError`: if a setting is out of range, or not even one key frame fits; the message names the least
            possible number.
    """

    max_visual_tokens: int
    key_price: int
    coarse_price: int | None = None
    fixed_price: int = 0
    frames_per_coarse: int = 1
    coarse_per_key: int = 8
    num_key_frames: int | None = None

    def __post_init__(self) -> None:
        if self.num_key_frames is not None and self.num_key_frames < 1:
            raise ValueError(f"`num_key_frames` must be at least 1, got {self.num_key_frames}.")
        if self.coarse_per_key < 0:
            raise ValueError(f"`coarse_per_key` must be at least 0, got {self.coarse_per_key}.")
        least = self.fixed_price + self.key_price
        if self.max_visual_tokens < least:
            raise ValueError(
                f"`max_visual_tokens={self.max_visual_tokens}` is too small: one key frame costs {least} tokens, its "
                "time words and marks included, the least possible number."
            )

    def plan(self, num_frames: int) -> FramePlan:
        """The plan of a video with `num_frames` frames. Raises `ValueError` for a video without frames."""
        if num_frames < 1:
            raise ValueError(f"A video needs at least one frame, got {num_frames}.")
        most = min(num_frames, self.num_key_frames or num_frames)
        affordable = (k for k in range(1, most + 1) if self._cost(num_frames, k) <= self.max_visual_tokens)
        num_key = max(affordable, default=1)
        num_coarse = self._coarse(num_frames, num_key)
        if self.coarse_price is not None and num_coarse:
            left = self.max_visual_tokens - self.fixed_price - num_key * self.key_price
            num_coarse = min(num_coarse, left // self.coarse_price)
        cost = self.fixed_price + num_key * self.key_price + num_coarse * (self.coarse_price or 0)
        return FramePlan(num_frames, num_key, num_coarse, cost)

    def _coarse(self, num_frames: int, num_key: int) -> int:
        """Number of coarse pictures beside `num_key` key frames, without a budget."""
        if self.coarse_price is None:
            return 0
        return min(math.ceil((num_frames - num_key) / self.frames_per_coarse), self.coarse_per_key * num_key)

    def _cost(self, num_frames: int, num_key: int) -> int:
        coarse = self._coarse(num_frames, num_key) * (self.coarse_price or 0)
        return self.fixed_price + num_key * self.key_price + coarse


__all__ = ["FrameBudget", "FramePlan", "TokenBudget", "TokenPlan", "room_for_videos"]
