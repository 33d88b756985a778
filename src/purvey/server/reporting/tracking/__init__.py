"""Runs as a server of MLflow is told of them: read from the store, never in the way of a job."""
