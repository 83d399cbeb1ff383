"""The training stages of `checkpoints/dynfocus-tiny`; `benchmarks/focus` runs them."""
