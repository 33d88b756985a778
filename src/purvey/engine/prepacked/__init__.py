"""Weights as they are computed with, kept on disk and mapped, so that a second start is quick.

Promises the bits of a first start, and to work as well without: a file that is gone, torn or of
another version is written anew, a full disk writes none. Knows nothing of requests.
"""
