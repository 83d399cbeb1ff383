"""A synthetic world of events in video, whose questions and answers are known: made, written as files, and scored."""

from .questions import KINDS, Question, make_questions
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
