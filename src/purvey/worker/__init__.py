"""Composition roots of the data plane: `python -m purvey.worker {engine,job}`.

Joins models, data, training, explanation and the engine into processes that the control
plane spawns. Speaks only `contracts` messages over its link; never opens the database.
"""
