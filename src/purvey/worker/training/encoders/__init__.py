"""Jobs whose network is an encoder: opened or built, then taught vectors or labels."""
