"""One network at several sizes: rates that transfer across width, and growth that keeps a function.

`mup.py` says how values and rates follow the width; `width.py` and `depth.py` enlarge a decoder's
weights, `growth.py` a whole language model.
"""
