"""The metric `video_qa_accuracy`."""

__all__: list[str] = []
