"""The metrics. Each is a folder for `evaluate.load` that can be pushed to the Hub."""

__all__: list[str] = []
