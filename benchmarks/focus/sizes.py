"""The size of a comparison: videos, steps, key frames."""

from dataclasses import dataclass

from recipe.data import VideoSet


@dataclass(frozen=True)
class Part:
    """A part of a training: `turns` questions in a chat about a video of `num_frames`, for `steps` batches."""

    num_frames: int
    turns: int
    steps: int
    batch_size: int
    key_frames: tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """
    Args:
        vision_steps, vision_pool, reading_steps, alignment_steps (`int`): steps of the shared training, and number of
            frames drawn for the tower.
        words_steps, teaching_questions, teaching_steps (`int`): steps of `learn_words`, and questions and steps of
            `teach_scores`, for rows without labels.
        training (`dict`): training videos by number of frames. Test videos have other seeds, textures and pairs.
        base (`tuple`): parts of each of `ROUNDS`; each step draws one.
        rows (`tuple`): parts of each row's own training.
        checkpoint (`tuple`): parts of each of `CHECKPOINT`, the rounds from the shared start to the checkpoint.
        absence (`tuple`): parts of the training of the selector after the first of these rounds.
        longest_position (`int`): largest position when gaps are left between tokens in training.
        test (`dict`): number of test videos by their frames.
        key_frames (`dict`): numbers of key frames in the test, by the frames of the video. The first is that of the
            tables, the others are tested only for the first seed of some rows.
        longest_dense (`int`): frames of the longest video that is tested with all its tokens.
    """

    vision_steps: int
    vision_pool: int
    reading_steps: tuple[int, int]
    alignment_steps: int
    words_steps: int
    teaching_questions: int
    teaching_steps: int
    training: dict[int, VideoSet]
    base: tuple[tuple[Part, ...], ...]
    rows: tuple[Part, ...]
    checkpoint: tuple[tuple[Part, ...], ...]
    absence: tuple[Part, ...]
    test: dict[int, int]
    key_frames: dict[int, tuple[int, ...]]
    longest_dense: int
    longest_position: int = 5400


SIZES = {
    "full": Sizes(
        vision_steps=2400,
        vision_pool=60_000,
        reading_steps=(2000, 700),
        alignment_steps=1200,
        words_steps=250,
        teaching_questions=2560,
        teaching_steps=600,
        training={
            32: VideoSet(seed=22, count=5000, num_frames=32),
            128: VideoSet(seed=23, count=800, num_frames=128),
            512: VideoSet(seed=24, count=200, num_frames=512),
        },
        base=(
            (
                Part(32, 10, 1100, 16, (1, 2, 4, 4, 8, 8, 16)),
                Part(128, 10, 400, 6, (4, 8, 16)),
                Part(512, 8, 150, 2, (8, 16, 32)),
            ),
            (
                Part(32, 10, 800, 16, (1, 2, 4, 4, 8, 8, 16)),
                Part(128, 10, 300, 6, (4, 8, 8, 16)),
                Part(512, 8, 100, 2, (8, 8, 16, 32)),
            ),
            (
                Part(32, 10, 420, 16, (1, 2, 4, 4, 8, 8, 16)),
                Part(128, 10, 180, 6, (4, 8, 8, 16)),
                Part(512, 8, 50, 2, (8, 8, 16, 32)),
            ),
        ),
        rows=(
            Part(32, 2, 95, 16, (1, 2, 4, 8)),
            Part(128, 2, 35, 8, (4, 8, 16)),
            Part(512, 2, 20, 3, (8, 16, 32)),
        ),
        checkpoint=tuple(
            (
                Part(32, 10, short, 16, (1, 2, 4, 4, 8)),
                Part(128, 10, medium, 8, (4, 8, 8, 16)),
                Part(512, 10, long, 3, (8, 8, 16)),
            )
            for short, medium, long in (
                (180, 220, 200),
                (220, 220, 200),
                (600, 400, 250),
                (600, 400, 250),
                (450, 450, 350),
                (200, 350, 200),
            )
        ),
        absence=(
            Part(32, 1, 250, 32, ()),
            Part(128, 1, 150, 16, ()),
            Part(512, 1, 200, 16, ()),
        ),
        test={32: 120, 128: 120, 512: 40},
        key_frames={32: (4, 1, 2, 8, 16), 128: (8, 2, 4, 16, 32), 512: (8, 16, 32)},
        longest_dense=128,
    ),
    "smoke": Sizes(
        vision_steps=2,
        vision_pool=64,
        reading_steps=(2, 2),
        alignment_steps=2,
        words_steps=2,
        teaching_questions=4,
        teaching_steps=2,
        training={
            8: VideoSet(seed=21, count=4, num_frames=8),
            16: VideoSet(seed=22, count=4, num_frames=16),
        },
        base=(
            (Part(8, 2, 1, 2, (1, 2)), Part(16, 2, 1, 2, (2, 4))),
            (Part(8, 2, 1, 2, (1, 2)),),
            (Part(16, 2, 1, 2, (2,)),),
        ),
        rows=(Part(8, 2, 1, 2, (1, 2)), Part(16, 1, 1, 2, (2, 4))),
        checkpoint=tuple((Part(length, 2, 1, 2, (2,)),) for length in (8, 16, 8, 8, 16, 8)),
        absence=(Part(8, 1, 1, 2, ()), Part(16, 1, 1, 2, ())),
        test={8: 2, 16: 2},
        key_frames={8: (2, 1), 16: (2, 4)},
        longest_dense=8,
    ),
}

__all__ = ["SIZES", "Part", "Sizes"]
