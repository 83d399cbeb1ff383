"""Evaluation of DynFocus models."""

__all__: list[str] = []
