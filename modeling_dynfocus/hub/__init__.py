"""Folders for the Hub: code, model card and upload."""
