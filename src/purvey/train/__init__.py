"""Gradient descent: one loop for every task, resumable bit for bit.

Promises: the weights after step k depend on the recipe, the data and the seed alone, not on
when the run was interrupted; a loss or gradient that is not finite never reaches the weights;
a checkpoint on disk is complete or absent. Knows nothing of jobs, reports or the API.
"""
