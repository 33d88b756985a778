"""The ranks of a divided run: the job's worker is the first, starts the others and ends them."""
