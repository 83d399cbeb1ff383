"""Converts rows of data sets into training batches."""
