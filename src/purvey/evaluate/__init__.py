"""How good a model is: metrics with intervals, and calibration. Numbers in, numbers out.

Knows nothing of models or training; numpy only.
"""
