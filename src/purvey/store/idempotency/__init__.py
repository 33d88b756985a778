"""Answers kept under idempotency keys: stored with the effect, found again, and let go in time.

Knows nothing of HTTP: an answer is a status and bytes.
"""
