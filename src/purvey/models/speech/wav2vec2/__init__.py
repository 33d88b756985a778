"""Recognisers whose network is the Wav2Vec2 of `transformers` with a CTC head."""
