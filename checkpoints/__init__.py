"""Trained models that travel with the package."""
