"""The metric `multiple_choice_accuracy`."""

__all__: list[str] = []
