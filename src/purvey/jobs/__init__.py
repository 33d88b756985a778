"""What should run: jobs, their legal moves, and the supervisor that gives them to workers.

Promises that every accepted job ends in exactly one terminal state, that a lost worker's job
is tried again from its newest good checkpoint, and that no write of a worker that lost its
lease is kept. Knows nothing of HTTP, tensors or what a job computes.
"""
