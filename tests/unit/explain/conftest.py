"""Explanations need the engine's packages; where they are missing there is nothing to test."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]
