"""Encoded recordings as they are stored: decoded once to be sure, described by their header."""

from purvey.errors import InvalidValueError
from purvey.parse import sounds


class UnusableRecordingError(ValueError):
    """A recording cannot be used; the message continues "column 'x' ..."."""


def check_recording(data: bytes) -> None:
    """Decode a recording once, so that a broken one is refused now and not while training.

    Raises:
        UnusableRecordingError: Not a recording, too long, or its samples cannot be decoded.
    """
    try:
        sounds.check(data)
    except InvalidValueError as error:
        problem = error.message.rstrip(".")
        raise UnusableRecordingError(f"cannot be used: {problem}, or drop the row") from None
