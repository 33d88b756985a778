"""Functions that a model may call: how a request gives them, and how an answer calls them."""
