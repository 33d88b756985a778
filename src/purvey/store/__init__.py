"""What is kept: rows, blobs and artifacts.

Promises that what a write returned from is on disk, that a foreign project's row looks like
a missing one, and that the server is the only writer. Knows nothing of HTTP, workers or
tensors.
"""
