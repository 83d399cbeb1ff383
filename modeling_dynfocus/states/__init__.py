"""Video states: what is computed from a video before any question, and its files."""
