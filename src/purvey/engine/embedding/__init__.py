"""Vectors and scores of texts, in batches whose rows stay strangers."""
