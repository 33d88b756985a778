"""Attention of one step over the cache; a row's bits never depend on other rows or on blocks."""
