"""Encoders of frames: vision towers and dual encoders."""
