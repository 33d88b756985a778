"""Linear layers whose weights are held in fewer bits: how they are cut, rounded and restored."""
