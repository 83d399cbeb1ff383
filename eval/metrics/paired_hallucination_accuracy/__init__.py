"""The metric `paired_hallucination_accuracy`."""

__all__: list[str] = []
