"""Serving on a CUDA device: the decoder's fast twin in Triton kernels, captured as graphs.

Promises what the CPU path promises: a row's result has the same bits whatever the other rows of
its step are. Nothing outside imports this package unless a CUDA device is to be used; Triton
comes with CUDA builds of torch.
"""
