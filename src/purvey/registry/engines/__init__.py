"""Which models are resident, in how much memory, for how long. Knows engines by contract only."""
