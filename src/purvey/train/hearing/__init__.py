"""Learning to write down speech. Knows recordings as features, and nothing of files."""
