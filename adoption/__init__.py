"""Pretrained parts put together to answer questions about videos."""
