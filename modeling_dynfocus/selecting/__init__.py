"""Pure functions on tensors: clustering, peaks, top-K."""
