"""Models that answer about an image: an encoder of patches and a projector before a decoder.

Knows nothing of requests: images come in decoded, and leave as rows of the decoder's stream.
"""
