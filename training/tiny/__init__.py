"""The recipe of `checkpoints/dynfocus-tiny`, run by `python -m dynfocus.training.tiny`."""
