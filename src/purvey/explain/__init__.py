"""Why a model said that: attributions to parts of the input, each with a measured faithfulness.

Works on a value function alone (a model is asked for log-probabilities and nothing else) and
knows neither torch nor engines nor requests; `worker/explaining.py` joins it to a model.
"""
