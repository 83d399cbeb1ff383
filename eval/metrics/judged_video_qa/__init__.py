"""The metric `judged_video_qa`."""

__all__: list[str] = []
