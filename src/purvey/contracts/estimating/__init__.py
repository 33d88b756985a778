"""What crosses from a worker that estimates a run."""
