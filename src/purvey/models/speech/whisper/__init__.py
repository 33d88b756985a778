"""Recognisers whose network is the Whisper of `transformers`: windows in, text with moments out."""
