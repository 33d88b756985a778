"""Datasets: files in, a typed, deduplicated, split and profiled version out.

Promises: a bad row is refused by its line, equal inputs never sit on both sides of a split,
and the same files, request and seed give the same bytes. Knows nothing of jobs or models'
weights; the server never imports it.
"""
