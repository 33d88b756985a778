"""Training jobs of every task: a recipe and data in, a tested model folder out."""
