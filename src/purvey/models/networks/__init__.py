"""Small networks of our own, each to be read in one sitting: known inputs in, logits out.

Promises: a network is built from declared inputs, a number of outputs and checked
hyperparameters alone. Knows nothing of files, labels' names, training or requests.
"""
