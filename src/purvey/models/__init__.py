"""Nets, weights, tokenizers and processors: tensors that know nothing of requests or jobs.

What is saved here loads in `transformers` and `peft`; what they save loads here. Nothing in
this package runs code from a model folder, except a user's own module, in worker processes only.
"""
