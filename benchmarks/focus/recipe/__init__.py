"""The stages by which `checkpoints/dynfocus-tiny` is trained; `benchmarks/focus` puts them together."""
