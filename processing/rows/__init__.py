"""Rows of data sets to training batches."""
