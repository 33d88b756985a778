"""The process boundary: child processes and typed frames over a socket pair.

Promises that a child ends with its parent, inherits no secret, and that every frame fits its
union. Knows nothing of jobs, models or requests.
"""
