"""One raw input to one tensor of fixed shape, by what the model declares.

Promises: a row's tensor depends on the row and the declaration alone, never on its neighbours.
"""
