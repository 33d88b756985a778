"""Twins of the data plane that follow a script: they pass the contract suites of the real ones."""
