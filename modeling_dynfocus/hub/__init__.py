"""Saved folders for the Hub: saving with code, upload, model card."""

from .saving import prepare_for_hub, refresh_code, save_for_hub

__all__ = ["prepare_for_hub", "refresh_code", "save_for_hub"]
