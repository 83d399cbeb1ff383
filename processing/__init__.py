"""From a video file and a question to the tensors that the model reads."""

from .dynfocus_video_qa import DynFocusVideoQA
from .pipeline_video_qa import VideoQAPipeline
from .processing_dynfocus import DynFocusProcessor
from .reading.limits import ReadingLimits, set_default_limits
from .reading.stream import FrameChunk, FrameStream
from .reading.video_reading import DecodedVideo, frames_at, read_video
from .rows.collator import DynFocusCollator, merge_rows
from .token_plan import TokenBudget, TokenPlan
from .video_processing_dynfocus import DynFocusVideoMetadata, DynFocusVideoProcessor
from .video_qa import Answer, VideoQA

__all__ = [
    "Answer",
    "DecodedVideo",
    "DynFocusCollator",
    "DynFocusProcessor",
    "DynFocusVideoMetadata",
    "DynFocusVideoProcessor",
    "DynFocusVideoQA",
    "FrameChunk",
    "FrameStream",
    "ReadingLimits",
    "TokenBudget",
    "TokenPlan",
    "VideoQA",
    "VideoQAPipeline",
    "frames_at",
    "merge_rows",
    "read_video",
    "set_default_limits",
]
