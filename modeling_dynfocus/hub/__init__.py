"""Saved folders for the Hub: the code that goes with them, upload, model card."""
