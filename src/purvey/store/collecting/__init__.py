"""Rows of what is collected to learn from, beside files and datasets."""
