"""Serving what only `transformers` computes: the slower path, behind the same loop."""
