"""Reading videos: sources, index, sampling, decoders."""
