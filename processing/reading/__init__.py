"""Videos to frames: sources, index, sampling, decoders."""
