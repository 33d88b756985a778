"""Sweeps: jobs whose trials are jobs. Who writes trials down, tells of them, and ends them.

Promises that a trial that is on record is begun, told and counted exactly once, and that no trial
outlives its sweep. What to try is decided in the sweep's worker, which keeps nothing.
"""
