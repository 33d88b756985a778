"""Rows of sweeps: their trials. The sweep itself is a job, and so is each trial."""
