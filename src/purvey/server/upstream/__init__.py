"""Requests whose model another server computes: passed on as they are, metered as any other.

Promises: what the caller sent and what the upstream says arrive unchanged but for the model's name
and the token counts. Must not know how a field is spelt that it does not change.
"""
