"""A sweep: the search over a recipe's fields, as it is asked for and as its parts speak of it."""
