"""Errors of code that is not ours: what broken input makes libraries and templates raise."""

import re
import struct
import zlib

FOREIGN_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError),
    *(NameError, OSError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(struct.error, zlib.error),
)
"""All but `MemoryError`, which says nothing of the input's form."""
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_REASON_CHARS = 200


def reason(error: Exception) -> str:
    """Return an error's first characters, without paths or addresses of this process."""
    if isinstance(error, (OSError, ImportError)):
        return "it asks for a file, and none can be opened"
    said = str(error) or type(error).__name__
    printable = said[:_REASON_CHARS].encode("utf-8", "replace").decode()
    return _ADDRESS.sub("an address", printable).rstrip(".")
