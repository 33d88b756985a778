"""Checkpoints beside training: the loop waits for a copy of its state, a thread writes it.

Promises: what is written is the state at one step, whatever the loop does meanwhile; one
checkpoint is written at a time; a failure is raised in the loop, at its next look.
"""
