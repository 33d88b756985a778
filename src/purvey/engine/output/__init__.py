"""What an output is made of: which tokens may come next, and how they become text."""
