"""Learning vectors of texts."""
