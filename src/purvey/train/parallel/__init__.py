"""One run by several processes, its ranks: a batch, the weights, or the layers are divided.

Promises: the gradient of a step is the one that a single process computes, up to the order of
its sums; data order, rates, evaluations and the end are those of a single process, exactly. Every
rank does the same things in the same order; the first one alone reports. It
writes what all hold alike; of what is divided, each writes its own part.
"""
