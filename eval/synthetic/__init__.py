"""A synthetic world of events in video with known questions and answers: episodes, video files, and scores."""

from .questions import ALL_KINDS, KINDS, Question, make_questions
from .world import (
    COLORS,
    HELD_OUT,
    MOTIONS,
    SHAPES,
    Episode,
    Event,
    example_episode,
    render,
    render_frame,
    sample_episode,
    sample_single_frames,
)

__all__ = [
    "ALL_KINDS",
    "COLORS",
    "HELD_OUT",
    "KINDS",
    "MOTIONS",
    "SHAPES",
    "Episode",
    "Event",
    "Question",
    "example_episode",
    "make_questions",
    "render",
    "render_frame",
    "sample_episode",
    "sample_single_frames",
]
