"""The metrics, each a folder that `evaluate.load` takes and that can be pushed to the Hub as it is."""

__all__: list[str] = []
