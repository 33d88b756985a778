"""Resources of our own, one module each."""
