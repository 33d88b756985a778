"""Rows about how models are served. Knows nothing of engines."""
