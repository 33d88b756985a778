"""The quick form of a bar: `--quick` runs the whole path, and says nothing about speed."""

import sys

FLAG = "--quick"


def is_quick() -> bool:
    """Whether the command line asks for the quick form."""
    return FLAG in sys.argv[1:]
