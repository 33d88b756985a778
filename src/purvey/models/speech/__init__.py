"""Speech recognition by connectionist temporal classification: recordings in, characters out.

Promises: what a recording is heard as depends on it and on the weights alone. Knows nothing of
files of recordings, of requests, or of training.
"""
