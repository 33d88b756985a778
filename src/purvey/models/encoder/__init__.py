"""Encoders of the BERT family by configuration, and the way from a text to its vector or score."""
